"""A picture VAE's numbers, against diffusers' own."""

import json
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.autoencoder_kl import autoencoder_kl_spec, parse_autoencoder_kl_config
from framehaul_pipeline.spec import Exactness

SMALL: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 16, 16],
    "norm_num_groups": 4,
    "latent_channels": 4,
}


def test_an_empty_config_is_diffusers_default() -> None:
    """And what was parsed builds the same decoder."""
    with torch.device("meta"):
        default = AutoencoderKL()
        again = AutoencoderKL(**parse_autoencoder_kl_config({}))
    parsed = parse_autoencoder_kl_config(json.loads(default.to_json_string()))
    assert parsed == parse_autoencoder_kl_config({}) == parse_autoencoder_kl_config(parsed)
    shapes = [{n: t.shape for n, t in vae.decoder.state_dict().items()} for vae in (default, again)]
    assert shapes[0] == shapes[1]


def test_every_latent_is_a_picture_of_its_own() -> None:
    """One frame each; the factor is the decoder's own."""
    config = parse_autoencoder_kl_config(SMALL)
    spec = autoencoder_kl_spec("sd", config)
    assert (spec.name, spec.channels, spec.temporal_factor, spec.first_frames) == ("sd", 4, 1, 1)
    assert (spec.receptive_latents, spec.exactness, spec.state_bytes_per_pixel) == (1, Exactness.FULL, 0.0)
    frames = AutoencoderKL(**config).decode(torch.zeros(1, 4, 2, 3)).sample
    assert frames.shape == (1, 3, 2 * spec.spatial_factor, 3 * spec.spatial_factor)


@pytest.mark.parametrize(
    ("change", "mean", "std"),
    [
        ({}, 0.0, 1 / 0.18215),
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, 0.25, 2.0),
        ({"scaling_factor": 0.5, "latents_mean": [3.0] * 4, "latents_std": [4.0] * 4}, 3.0, 8.0),
    ],
)
def test_mean_and_deviation_undo_what_pipelines_do(change: dict[str, Any], mean: float, std: float) -> None:
    """latents / scaling_factor + shift_factor, as StableDiffusion3Pipeline does; with statistics, as SDXL's does."""
    spec = autoencoder_kl_spec("sd", parse_autoencoder_kl_config({**SMALL, **change}))
    assert spec.latent_mean == (mean,) * 4
    assert spec.latent_std == pytest.approx((std,) * 4)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"up_block_types": ["AttnUpDecoderBlock2D"] * 3}, "up_block_types=.*: must be 3 times UpDecoderBlock2D"),
        ({"up_block_types": 3}, "up_block_types=3"),
        ({"block_out_channels": [8, 16, 18]}, r"block_out_channels=\[8, 16, 18\]: must be multiples of .*=4"),
        ({"out_channels": 4}, "out_channels=4: must be 3"),
        ({"act_fn": "exec"}, "act_fn='exec': must be silu or swish"),
        ({"scaling_factor": 0}, "scaling_factor=0: must be a positive number"),
        ({"scaling_factor": True}, "scaling_factor=True"),
        ({"shift_factor": "0"}, "shift_factor='0': must be a number"),
        ({"latents_mean": [0.0], "latents_std": [1.0] * 4}, "latents_mean"),
        ({"act_fn": "x" * 500}, r"act_fn='x{79}\.\.: must be"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        parse_autoencoder_kl_config({**SMALL, **change})
