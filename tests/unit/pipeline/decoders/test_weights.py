"""A weights file is checked before it is believed."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from framehaul_pipeline.decoders.tiny import WEIGHTS_PREFIX as DECODER_PREFIX
from framehaul_pipeline.decoders.tiny import TinyDecoderNet
from framehaul_pipeline.decoders.weights import ASSETS, load_weights, read_tensors
from framehaul_pipeline.encode.tiny_encoder import WEIGHTS_PREFIX as ENCODER_PREFIX
from framehaul_pipeline.encode.tiny_encoder import TinyEncoderNet
from framehaul_pipeline.errors import InvalidInput


class Small(nn.Module):
    """A module of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)


def tensors() -> dict[str, Tensor]:
    return {"net.conv.weight": torch.ones(3, 2, 1, 1).half(), "net.conv.bias": torch.full((3,), 0.5).half()}


def written(path: Path, changes: dict[str, Tensor] | None = None, without: str = "") -> Path:
    save_file({name: t for name, t in (tensors() | (changes or {})).items() if name != without}, path)
    return path


def test_weights_arrive_in_the_modules_own_dtype(tmp_path: Path) -> None:
    module = Small()
    load_weights(module, written(tmp_path / "w.safetensors"), "net.")
    assert module.conv.weight.dtype == torch.float32
    assert module.conv.weight.eq(1).all()
    assert module.state_dict()["conv.bias"].eq(0.5).all()


def test_tensors_of_another_prefix_are_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", {"other.x": torch.zeros(1)})
    load_weights(Small(), path, "net.")


@pytest.mark.parametrize(
    ("changes", "without", "message"),
    [
        ({"net.conv.bias": torch.zeros(4).half()}, "", r"net\.conv\.bias of shape \[4\].*\[3\]"),
        ({"net.conv.bias": torch.zeros(3, dtype=torch.int16)}, "", "net.conv.bias of type I16"),
        ({"net.conv.bias": torch.zeros(3).to(torch.float8_e5m2)}, "", "net.conv.bias of type F8_E5M2"),
        ({"net.conv.bias": torch.tensor([0.0, torch.nan, 0.0])}, "", "net.conv.bias with NaN"),
        ({"net.extra": torch.zeros(1)}, "", "tensor net.extra"),
        ({}, "net.conv.bias", "no tensor net.conv.bias"),
    ],
    ids=["shape", "integers", "float8", "nan", "unknown", "missing"],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Tensor], without: str, message: str
) -> None:
    module = Small()
    with pytest.raises(InvalidInput, match=message):
        load_weights(module, written(tmp_path / "w.safetensors", changes, without), "net.")


WANTED = {"net.conv.weight": (3, 2, 1, 1), "net.conv.bias": (3,)}


def sharded(path: Path) -> Path:
    """A folder with the small module's tensors in two files."""
    for number, (name, tensor) in enumerate(tensors().items()):
        save_file({name: tensor, "encoder.x": torch.zeros(1)}, path / f"{number}.safetensors")
    shards = {"net.conv.weight": "0.safetensors", "net.conv.bias": "1.safetensors"}
    index = path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    return path


def test_tensors_come_as_they_are_stored(tmp_path: Path) -> None:
    """From a file, from a folder with it, and from a folder with shards."""
    file = written(tmp_path / "w.safetensors")
    (tmp_path / "shards").mkdir()
    for path in (file, tmp_path, sharded(tmp_path / "shards")):
        read = read_tensors(path, WANTED)
        assert read.keys() == tensors().keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in tensors().items())
        assert {tensor.dtype for tensor in read.values()} == {torch.float16}


def test_tensors_are_mapped_and_not_read(tmp_path: Path) -> None:
    """A tensor's memory is the file's: no copy of a file of gigabytes is made before its values are wanted."""
    path = written(tmp_path / "w.safetensors", {"net.conv.bias": torch.full((3,), 2.0)})
    (bias,) = (read_tensors(path, WANTED)["net.conv.bias"],)
    with Path("/proc/self/maps").open() as maps:
        ranges = [line.split()[0].split("-") for line in maps if line.rstrip().endswith("w.safetensors")]
    assert any(int(start, 16) <= bias.data_ptr() < int(end, 16) for start, end in ranges)


def test_names_can_be_translated(tmp_path: Path) -> None:
    """For all files together; what is left alone is judged by its new name."""
    path = written(tmp_path / "w.safetensors", {"a.x": torch.zeros(1), "weight": torch.zeros(2)})

    def rename(names: Collection[str]) -> dict[str, str]:
        assert set(names) == {*tensors(), "a.x", "weight"}
        return {name: "net." + name if name == "weight" else name for name in names}

    with pytest.raises(InvalidInput, match="tensor weight: must be weights without it"):
        read_tensors(path, WANTED, rename)
    assert read_tensors(path, {**WANTED, "net.weight": (2,)}, rename)["net.weight"].shape == (2,)
    twice = tmp_path / "twice.safetensors"
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, twice)
    with pytest.raises(InvalidInput, match=r"[ab] twice: must be each tensor once"):
        read_tensors(twice, {"x": (1,)}, lambda names: dict.fromkeys(names, "x"))


def test_a_pin_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors")
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_tensors(path, WANTED, sha256=right).keys() == WANTED.keys()
    assert read_tensors(tmp_path, WANTED, sha256=right).keys() == WANTED.keys()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InvalidInput, match=f"must be the file whose sha256 is {right}"):
        read_tensors(path, WANTED, sha256=right)
    (tmp_path / "shards").mkdir()
    with pytest.raises(InvalidInput, match="2 files with one sha256"):
        read_tensors(sharded(tmp_path / "shards"), WANTED, sha256=right)


def test_shipped_file_holds_both_halves_and_nothing_else() -> None:
    path = ASSETS / "tiny.safetensors"
    assert path.stat().st_size <= 8_000_000
    decoder, encoder = TinyDecoderNet(), TinyEncoderNet()
    load_weights(decoder, path, DECODER_PREFIX)
    load_weights(encoder, path, ENCODER_PREFIX)
    wanted = {DECODER_PREFIX + name for name in decoder.state_dict()}
    wanted |= {ENCODER_PREFIX + name for name in encoder.state_dict()}
    stored = load_file(path)
    assert stored.keys() == wanted
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
