"""A Wan VAE's numbers, against diffusers' own network."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.wan import (
    WAN_2_1_MEAN,
    WAN_2_1_STD,
    WAN_2_2_MEAN,
    WAN_2_2_STD,
    parse_wan_config,
    wan_receptive_latents,
    wan_spec,
    wan_state_shapes,
)
from framehaul_pipeline.spec import Exactness
from tests.support.wan_models import SHALLOW, WAN_2_1, WAN_2_2, decoder_tensors, qwen_image, wan

WAN_2_2_PUBLISHED = {
    **WAN_2_2,
    "base_dim": 160,
    "decoder_base_dim": 256,
    "latents_mean": WAN_2_2_MEAN,
    "latents_std": WAN_2_2_STD,
}


def test_an_empty_config_is_the_published_wan_2_1() -> None:
    """Missing values are the defaults of diffusers' constructors, for both classes alike."""
    with torch.device("meta"):
        for vae in (wan_defaults := wan({}), qwen_image({})):
            assert parse_wan_config(dict(vae.config)) == parse_wan_config({})
    config = parse_wan_config({})
    assert (config.base_dim, config.decoder_base_dim, config.z_dim, config.patch_size) == (96, 96, 16, 1)
    assert list(config.latents_mean) == wan_defaults.config["latents_mean"]
    assert list(config.latents_std) == wan_defaults.config["latents_std"]
    assert (config.latents_mean, config.latents_std) == (WAN_2_1_MEAN, WAN_2_1_STD)


def test_the_tensors_of_qwen_image_have_the_names_and_shapes_of_wans() -> None:
    """So that one decoder loads both."""
    ours, theirs = decoder_tensors(wan(WAN_2_1)), decoder_tensors(qwen_image(WAN_2_1))
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}


def test_spec_of_the_published_models() -> None:
    """Factors, channels and bytes of state: 4729 a pixel for Wan 2.1 and 3569 for Wan 2.2 in 2-byte numbers."""
    spec = wan_spec("wan2.1", parse_wan_config({}))
    assert (spec.name, spec.channels, spec.spatial_factor, spec.temporal_factor) == ("wan2.1", 16, 8, 4)
    assert (spec.first_frames, spec.lookahead_latents, spec.exactness) == (1, 0, Exactness.FULL)
    assert spec.state_bytes_per_pixel == 4729
    assert (spec.latent_mean, spec.latent_std) == (WAN_2_1_MEAN, WAN_2_1_STD)
    spec = wan_spec("wan2.2", parse_wan_config(WAN_2_2_PUBLISHED))
    assert (spec.channels, spec.spatial_factor, spec.temporal_factor) == (48, 16, 4)
    assert spec.state_bytes_per_pixel == pytest.approx(3569, abs=1)


def test_what_was_parsed_parses_again() -> None:
    """Through plain values: a config travels to the worker as such."""
    for given in ({}, WAN_2_2, SHALLOW):
        config = parse_wan_config(given)
        plain = msgspec.msgpack.decode(msgspec.msgpack.encode(config))
        assert parse_wan_config(plain) == config
    assert parse_wan_config({"decoder_base_dim": None, "patch_size": None, "input_channels": 3}) == parse_wan_config({})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"base_dim": 0}, r"config\.json base_dim=0: must be a whole number in 1\.\.4096"),
        ({"base_dim": True}, "base_dim=True"),
        ({"decoder_base_dim": 5000}, "decoder_base_dim=5000"),
        ({"z_dim": "16"}, "z_dim='16'"),
        ({"dim_mult": []}, "dim_mult=.*a list of 1..6 whole numbers"),
        ({"dim_mult": [1, 2, 0, 4]}, "dim_mult"),
        ({"dim_mult": 4}, "dim_mult=4"),
        ({"num_res_blocks": 17}, "num_res_blocks=17"),
        ({"temperal_downsample": [True]}, "temperal_downsample=.*a list of 3 times true or false"),
        ({"temperal_downsample": [1, 0, 0]}, "temperal_downsample"),
        ({"is_residual": "yes"}, "is_residual='yes': must be true or false"),
        ({"patch_size": 3}, "patch_size=3: must be 1 or 2"),
        ({"out_channels": 12, "is_residual": True}, "out_channels=12: must be 3$"),
        ({"out_channels": 4}, "out_channels=4: must be 3 or 12 or 27 or 48"),
        ({"input_channels": 4}, "input_channels=4: must be 3"),
        ({"patch_size": 2, "out_channels": 3, "is_residual": True}, "out_channels=3: must be 12"),
        ({"latents_mean": [0.0] * 15}, "latents_mean=.*a list of 16 numbers"),
        ({"z_dim": 48}, "latents_mean=None: must be a list of 48 numbers"),
        ({"latents_std": [0.0] * 16}, "latents_std=.*a list of 16 positive numbers"),
        ({"latents_std": [float("nan")] * 16}, "latents_std"),
        ({"base_dim": 7, "dim_mult": [1, 3, 4, 4]}, r"dim_mult=\[1, 3, 4, 4\] times 7: must be even widths"),
        ({"base_dim": 3, "dim_mult": [1, 2, 24, 5], "is_residual": True}, "dim_mult=.* what the shortcut"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        parse_wan_config({"base_dim": 8, **change})


class Recorder:
    """Notes what each causal convolution that looks back is given while diffusers decodes."""

    def __init__(self, module: nn.Module) -> None:
        self.shapes: list[tuple[int, int, int]] = []
        for each in module.modules():
            if isinstance(each, nn.Conv3d) and each.kernel_size[0] == 3:
                each.register_forward_pre_hook(self._note)

    def _note(self, module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        _, channels, _, height, width = given[0].shape
        self.shapes.append((channels, height, width))


@pytest.mark.parametrize("given", [WAN_2_1, WAN_2_2, SHALLOW], ids=["2.1", "2.2", "shallow"])
def test_state_shapes_are_what_the_convolutions_of_diffusers_take(given: dict[str, Any]) -> None:
    """In the order they run; read off the second latent, since the first one skips the doubling of time."""
    config = parse_wan_config(given)
    vae = wan(given)
    latents = torch.randn(1, config.z_dim, 2, 3, 5, generator=torch.Generator().manual_seed(1))
    recorder = Recorder(vae.decoder)
    frames = vae.decode(latents).sample
    expected = wan_state_shapes(config, 3, 5)
    assert recorder.shapes[-len(expected) :] == expected
    spec = wan_spec("w", config)
    factor = spec.spatial_factor
    assert frames.shape == (1, 3, spec.num_frames(2), 3 * factor, 5 * factor)
    state_bytes = sum(2 * channels * height * width * 2 for channels, height, width in expected)
    assert spec.state_bytes_per_pixel * frames.shape[3] * frames.shape[4] == state_bytes


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_res_blocks": 2, "temperal_downsample": [False]},
        {"dim_mult": [1, 2, 2], "temperal_downsample": [False, True]},
        {"dim_mult": [1, 2, 2], "temperal_downsample": [True, True], "is_residual": True},
    ],
    ids=str,
)
def test_receptive_latents_are_exact(change: Mapping[str, Any]) -> None:
    """Changing a latent changes frames of the latents up to the receptive field's end, and not one frame after it."""
    given = {**SHALLOW, **change}
    config = parse_wan_config(given)
    receptive = wan_receptive_latents(config)
    vae = wan(given).double()
    changed, last = 2, 2 + receptive
    latents = torch.randn(1, 2, last + 1, 1, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    other = latents.clone()
    other[:, :, changed] += 10.0
    frames_of_both = vae.decode(torch.cat([latents, other])).sample.transpose(1, 2).flatten(2)
    differs = (frames_of_both[0] != frames_of_both[1]).any(-1)
    frames = wan_spec("w", config).num_frames
    assert not differs[: frames(changed)].any()
    assert differs[frames(last - 1) : frames(last)].any()
    assert not differs[frames(last) :].any()
    assert len(differs) == frames(last + 1)
