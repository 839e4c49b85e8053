"""LTX's configs and weights' headers: published models by their numbers, and refusals by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ltx2_vae_to_diffusers,
    convert_ltx_vae_checkpoint_to_diffusers,
)
from safetensors.torch import save_file

from framehaul.safetensors import StoredTensor
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.ltx import LTX_2, LTX_VIDEO, ltx_spec, parse_ltx_config
from framehaul_pipeline.models.ltx_names import infer_ltx_config, rename_ltx
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.models.safetensors_files import bare_names, read_numbers
from tests.support.ltx_models import make, original_tensors

HALVING = {
    "decoder_block_out_channels": [256, 512, 1024],
    "decoder_layers_per_block": [5, 6, 7, 8],
    "decoder_spatio_temporal_scaling": [True, True, True],
    "decoder_inject_noise": [True, True, True, False],
    "upsample_residual": [True, True, True],
    "upsample_factor": [2, 2, 2],
}


@pytest.mark.parametrize(
    ("config", "lookahead"),
    [
        ({"_class_name": LTX_VIDEO}, 24),
        ({"_class_name": LTX_VIDEO, **HALVING, "timestep_conditioning": True}, 31),
        ({"_class_name": LTX_2, "decoder_causal": False}, 22),
        ({"_class_name": LTX_2}, 0),
    ],
)
def test_how_latents_become_frames(config: dict[str, Any], lookahead: int) -> None:
    """An empty config is LTX-Video 0.9.0, or LTX-2 as the library has it by default: causal."""
    spec = ltx_spec("ltx", parse_ltx_config(config))
    assert (spec.channels, spec.spatial_factor, spec.num_frames(3)) == (128, 32, 17)
    assert (spec.lookahead_latents, spec.drains) == (lookahead, lookahead > 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_mean_and_deviation_are_read_from_the_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    vae = make("0.9.0", scaling_factor=2.0).to(dtype)
    vae.save_pretrained(tmp_path)
    spec = describe_model(f"ltx={tmp_path}").spec
    assert spec.latent_mean == tuple(vae.latents_mean.tolist())
    assert spec.latent_std == tuple((vae.latents_std.double() / 2).tolist())


def test_tensors_that_are_read_for_their_numbers_are_small(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"latents_std": torch.ones(20_000)}, path)
    with pytest.raises(InvalidInput, match="latents_std of 80000 bytes: must be at most 65536"):
        read_numbers([path], {"latents_std"})


@pytest.mark.parametrize("version", ["0.9.0", "0.9.1", "0.9.5", "2"])
def test_names_are_those_of_the_librarys_converter(version: str) -> None:
    """Which doesn't know LTX-2.3's longer list yet."""
    tensors = original_tensors(make(version))
    convert = convert_ltx_vae_checkpoint_to_diffusers if version[0] == "0" else convert_ltx2_vae_to_diffusers
    converted = {name for name in convert(dict(tensors)) if not name.startswith("encoder.")}
    renamed = rename_ltx(bare_names(tensors).values()).values()
    assert {name for name in renamed if name.startswith(("decoder.", "latents_"))} == converted


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch_size_t": 2}, "patch_size_t=2: must be 1"),
        ({"decoder_layers_per_block": [4, 3]}, r"decoder_layers_per_block=\[4, 3\]: must be 5 numbers"),
        ({"upsample_factor": [1, 1]}, r"upsample_factor=\[1, 1\]: must be 4 numbers"),
        ({"decoder_inject_noise": [True]}, "decoder_inject_noise"),
        ({"timestep_conditioning": True}, r"decoder_block_out_channels=.*: must be channels that fit"),
        ({"upsample_factor": [2, 2, 2, 2]}, r"decoder_block_out_channels=.*: must be channels that fit"),
        ({"latents_std": [0.0] * 128}, "latents_std"),
        ({"_class_name": LTX_2, "timestep_conditioning": True}, "timestep_conditioning=True: must be False"),
        ({"_class_name": LTX_2, "upsample_type": ["spatial"]}, r"upsample_type=\['spatial'\]: must be 3 times one of"),
        ({"_class_name": LTX_2, "decoder_spatial_padding_mode": "none"}, "decoder_spatial_padding_mode='none'"),
        (
            {"_class_name": LTX_VIDEO, **HALVING, "timestep_conditioning": True, "decode_noise_scale": 2.0},
            r"decode_noise_scale=2.0: must be 0\.\.1",
        ),
    ],
)
def test_configs_that_are_not_the_models_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        parse_ltx_config({"_class_name": LTX_VIDEO, **changes})


def test_truth_values_stand_for_all_of_ltx_2s_blocks() -> None:
    """As the library has them."""
    short = {"decoder_spatio_temporal_scaling": True, "decoder_inject_noise": False, "upsample_residual": True}
    assert parse_ltx_config({"_class_name": LTX_2, **short}) == parse_ltx_config({"_class_name": LTX_2})


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("decoder.up_blocks.1.conv.conv.weight", (48, 32, 3, 3, 3), "3 times the channels: must be one of"),
        ("decoder.conv_out.conv.weight", (12,), r"shape \[12\]: must be there with 5 dimensions"),
    ],
)
def test_files_that_are_not_the_models_are_refused(name: str, shape: tuple[int, ...], told: str) -> None:
    vae = make("2")
    header = {
        stored: StoredTensor(dtype="F32", shape=tuple(tensor.shape), offset=0, num_bytes=0)
        for stored, tensor in original_tensors(vae, prefix="").items()
    }
    header[name] = StoredTensor(dtype="F32", shape=shape, offset=0, num_bytes=0)
    with pytest.raises(InvalidInput, match=told):
        infer_ltx_config(header)
