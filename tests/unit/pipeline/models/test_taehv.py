"""A weights file of the TAEHV family: its numbers from its header, and from its name where headers are alike."""

from pathlib import Path

import pytest

from framehaul.safetensors import StoredTensor
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.models.safetensors_files import read_header
from framehaul_pipeline.models.taehv import infer_taehv_config, is_taehv
from framehaul_pipeline.models.wan import WAN_2_1_STD, WAN_2_2_MEAN
from tests.support.taehv_models import BASE_WIDTHS, PUBLISHED, SUPER_WIDTHS, save


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_file_says_its_numbers(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.safetensors"
    save(name, path)
    assert is_taehv(read_header(path))
    config = infer_taehv_config(read_header(path), path.name)
    assert (config.latent_channels, config.time_factors, config.patch_size) == PUBLISHED[name]
    assert config.is_super == name.endswith("_super")
    assert config.widths == (SUPER_WIDTHS if config.is_super else BASE_WIDTHS)


@pytest.mark.parametrize(
    ("name", "spatial", "frames", "std"),
    [
        ("taehv", 8, 9, (1 / 0.476986,) * 16),
        ("taew2_1", 8, 9, WAN_2_1_STD),
        ("taehv1_5", 16, 9, (1 / 1.03682,) * 32),
        ("taeltx2_3", 32, 17, ()),
        ("taeh3", 16, 9, ()),
    ],
)
def test_how_latents_become_frames(
    tmp_path: Path, name: str, spatial: int, frames: int, std: tuple[float, ...]
) -> None:
    """Of three latents; MiniMax-H3's and LTX's mean and deviation lie in their own VAEs alone."""
    save(name, tmp_path / f"{name}.safetensors")
    spec = describe_model(f"draft={tmp_path / name}.safetensors").spec
    assert (spec.spatial_factor, spec.num_frames(3), spec.latent_std) == (spatial, frames, std)


def test_wan_2_2_is_told_by_its_channels(tmp_path: Path) -> None:
    save("taew2_2", tmp_path / "renamed.safetensors")
    assert describe_model(f"draft={tmp_path / 'renamed.safetensors'}").spec.latent_mean == WAN_2_2_MEAN


HEADER = {
    "decoder.1.weight": (10, 16, 3, 3),
    "decoder.7.conv.weight": (10, 10, 1, 1),
    "decoder.8.weight": (8, 10, 3, 3),
    "decoder.13.conv.weight": (16, 8, 1, 1),
    "decoder.14.weight": (6, 8, 3, 3),
    "decoder.19.conv.weight": (12, 6, 1, 1),
    "decoder.20.weight": (5, 6, 3, 3),
    "decoder.22.bias": (3,),
}


@pytest.mark.parametrize(
    ("file_name", "changes", "told"),
    [
        ("draft", {}, "file name=draft: must be one with taew2_1 or taehv"),
        ("taehv_or_taew2_1", {}, "file name"),
        ("taecvx", {}, "file name"),
        ("taew2_1", {"decoder.1.weight": (10, 12, 3, 3)}, "latent channels=12.*16, 32, 48, 24, 128"),
        ("taew2_1", {"decoder.13.conv.weight": (24, 8, 1, 1)}, r"time factors \[1, 3, 2\]"),
        ("taew2_1", {"decoder.22.bias": (2,)}, "TAEHV"),
        ("taew2_1", {"decoder.19.conv.weight": (12,)}, r"no decoder\.19\.conv\.weight"),
    ],
)
def test_what_is_not_known_is_refused(file_name: str, changes: dict[str, tuple[int, ...]], told: str) -> None:
    header = {
        name: StoredTensor(dtype="F32", shape=shape, offset=0, num_bytes=0)
        for name, shape in {**HEADER, **changes}.items()
    }
    with pytest.raises(InvalidInput, match=told):
        infer_taehv_config(header, file_name)


def test_a_layer_that_is_missing_is_named() -> None:
    header = {
        name: StoredTensor(dtype="F32", shape=shape, offset=0, num_bytes=0)
        for name, shape in HEADER.items()
        if name != "decoder.14.weight"
    }
    with pytest.raises(InvalidInput, match=r"no decoder\.14\.weight"):
        infer_taehv_config(header, "taew2_1")
