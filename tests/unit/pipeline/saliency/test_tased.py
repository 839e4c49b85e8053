"""TASED-Net: the folded form against the published one, and its unpooling against PyTorch's own."""

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.saliency import SaliencyModel, describe_saliency
from framehaul_pipeline.saliency.folded import FoldedTased
from framehaul_pipeline.saliency.mapper import Mapper
from framehaul_pipeline.saliency.network import Published, TasedNet
from framehaul_pipeline.saliency.weights import load_tased
from tests.support.decoder_checks import one_thread
from tests.support.networks import random_tased

DOCS = Path(__file__).parents[4] / "docs/highlights.md"
TOLERANCE = 1e-4
"""Rounding may change which of two voxels is the larger, and a value moves with it."""


@pytest.fixture(scope="module")
def net() -> TasedNet:
    return random_tased()


def frames(count: int) -> Tensor:
    shape = (count, 32, 32, 64, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def published(net: TasedNet, windows: Tensor) -> Tensor:
    return Published(net, torch.device("cpu"), torch.float32)(windows)


def test_it_is_as_large_as_the_published_one(net: TasedNet) -> None:
    assert sum(parameter.numel() for parameter in net.parameters()) == 21_260_693


@one_thread()
def test_the_folded_form_gives_the_published_ones_maps(net: TasedNet) -> None:
    windows = frames(2)
    maps = published(net, windows)
    assert maps.shape == (2, 32, 64)
    assert maps.std() > 0.01
    assert (maps[0] - maps[1]).abs().max() > 0.01
    folded = FoldedTased(net, torch.device("cpu"), torch.float32)(windows)
    torch.testing.assert_close(folded, maps, rtol=0, atol=TOLERANCE)


@one_thread()
def test_the_published_file_is_read(net: TasedNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was saved from within another module, with training's counters; the lines in the docs convert it."""
    torch.save({f"module.{name}": tensor for name, tensor in net.state_dict().items()}, tmp_path / "TASED_updated.pt")
    lines = re.search(r"```python\n(import torch\n.*?)```", DOCS.read_text(), re.DOTALL)
    assert lines is not None
    monkeypatch.chdir(tmp_path)
    exec(lines[1], {})
    assert describe_saliency(tmp_path / "tased.safetensors").path == str(tmp_path / "tased.safetensors")
    windows = frames(1)
    assert torch.equal(published(load_tased(tmp_path / "tased.safetensors"), windows), published(net, windows))


def test_another_file_is_refused(net: TasedNet, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    del tensors["base3.2.branch1.1.conv_t.weight"]
    save_file(tensors, tmp_path / "tased.safetensors")
    with pytest.raises(InvalidInput, match=r"no tensor base3\.2\.branch1\.1\.conv_t\.weight"):
        load_tased(tmp_path / "tased.safetensors")


@one_thread()
def test_where_the_folded_form_fails_the_published_one_runs(
    net: TasedNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found when the worker warms up; but for lack of memory, of which that takes more."""
    save_file(dict(net.state_dict()), tmp_path / "tased.safetensors")
    model = SaliencyModel(path=str(tmp_path / "tased.safetensors"), height=32, width=64)
    mapper, some = Mapper(model, torch.device("cpu")), frames(1)[0]
    expected = mapper.maps(some, every=1, backwards=True)
    mapper._chooses_kernels = True
    monkeypatch.setattr(FoldedTased, "__call__", Mock(side_effect=[torch.OutOfMemoryError("full"), RuntimeError("no")]))
    with pytest.raises(torch.OutOfMemoryError):
        mapper.warm_up(torch.cat([some, some[:3]]))
    mapper.warm_up(torch.cat([some, some[:3]]))
    torch.testing.assert_close(mapper.maps(some, every=1, backwards=True), expected, rtol=0, atol=1e-3)


def test_the_gpus_pooling_and_unpooling_equal_pytorchs(tmp_path: Path) -> None:
    """Bit for bit, on the CPU, with windows that overlap and windows that don't, ties and odd sizes."""
    program = Path(__file__).with_name("interpreted_pooling.py")
    run = subprocess.run(
        [sys.executable, program],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.stdout.splitlines() == ["equal"] * 6, run.stderr
