"""The shape of a Wan VAE's decoder: read from diffusers' config.json or from a weights file's header. Pure.

Wan 2.1, Wan 2.2 (residual, in patches of 2) and QwenImage are one network with different numbers. Source of the
structure and of the defaults: AutoencoderKLWan and AutoencoderKLQwenImage in huggingface/diffusers 0.42.1.

A decoder of Wan 2.1's latents may also give frames that are larger than usual, as Wan2.1-VAE-upscale2x does: 3 * n**2
channels, which those who use it lay out as PyTorch's `pixel_shuffle` does. Source: spacepxl/ComfyUI-VAE-Utils.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import msgspec

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.config_fields import ConfigFields
from framehaul_pipeline.spec import DecoderSpec, Exactness

# Source: defaults of AutoencoderKLWan and AutoencoderKLQwenImage in huggingface/diffusers 0.42.1.
WAN_2_1_MEAN: Final = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
WAN_2_1_STD: Final = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)

# Source: class Wan2_2_VAE in wan/modules/vae2_2.py of Wan-Video/Wan2.2 at bf69229.
WAN_2_2_MEAN: Final = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557),
    *(-0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825),
    *(-0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230),
    *(-0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748),
    *(0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
WAN_2_2_STD: Final = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013),
    *(0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978),
    *(0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093),
    *(0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887),
    *(0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)

HISTORY_FRAMES: Final = 2
"""Frames that a causal convolution, three frames long, looks back."""
_STATE_ITEMSIZE_BYTES: Final = 2
_MAX_WIDTH: Final = 4096
_MAX_BLOCKS: Final = 6
_MAX_Z_DIM: Final = 256
_MAX_ENLARGED: Final = 4


class WanConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that a Wan VAE's decoder is built from, under diffusers' names."""

    base_dim: int
    """Of the encoder."""
    decoder_base_dim: int
    z_dim: int
    dim_mult: tuple[int, ...]
    """Widths of the stages in units of `decoder_base_dim`, in the encoder's order: the decoder runs them backwards."""
    num_res_blocks: int
    """Of an encoder's stage; a decoder's has one more."""
    temperal_downsample: tuple[bool, ...]
    """Between which stages time is halved, in the encoder's order."""
    is_residual: bool
    """Wan 2.2: each stage that upsamples has a shortcut around it."""
    patch_size: int
    """Wan 2.2: the last convolution writes this many pixels each way, column by column."""
    out_channels: int
    """Of the last convolution; without patches, what is more than 3 are pixels row by row."""
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]

    @property
    def pixels(self) -> int:
        """How many the last convolution writes each way."""
        return math.isqrt(self.out_channels // 3)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that the decoder starts with, then those each stage gives."""
        return tuple(self.decoder_base_dim * mult for mult in (self.dim_mult[-1], *reversed(self.dim_mult)))

    @property
    def time_doublings(self) -> tuple[bool, ...]:
        """Whether each stage of the decoder but the last doubles the frame rate."""
        return tuple(reversed(self.temperal_downsample))


def parse_wan_config(config: Mapping[str, Any], source: str = "config.json") -> WanConfig:
    """Check the config.json of an AutoencoderKLWan or AutoencoderKLQwenImage; also what this gives, as plain values.

    Args:
        config: its fields.
        source: where they come from, for errors.

    Raises:
        InvalidInput: names the field, its value and what is allowed.
    """
    fields = ConfigFields(config, source)
    base_dim = fields.whole("base_dim", 96, 1, _MAX_WIDTH)
    decoder_base_dim = base_dim
    if fields.is_set("decoder_base_dim"):
        decoder_base_dim = fields.whole("decoder_base_dim", base_dim, 1, _MAX_WIDTH)
    z_dim = fields.whole("z_dim", 16, 1, _MAX_Z_DIM)
    dim_mult = fields.wholes("dim_mult", (1, 2, 4, 4), 1, 64, _MAX_BLOCKS)
    patch_size = fields.choice("patch_size", 1, (1, 2)) if fields.is_set("patch_size") else 1
    is_residual = fields.flag("is_residual", default=False)
    enlarged = 1 if is_residual else _MAX_ENLARGED
    channels = (12,) if patch_size > 1 else tuple(3 * pixels**2 for pixels in range(1, enlarged + 1))
    # QwenImage has one name for the pictures' channels on both sides, which are also 4 in a variant with transparency.
    channels_field = "input_channels" if fields.is_set("input_channels") else "out_channels"
    parsed = WanConfig(
        base_dim=base_dim,
        decoder_base_dim=decoder_base_dim,
        z_dim=z_dim,
        dim_mult=dim_mult,
        num_res_blocks=fields.whole("num_res_blocks", 2, 1, 16),
        temperal_downsample=fields.flags("temperal_downsample", (False, True, True), len(dim_mult) - 1),
        is_residual=is_residual,
        patch_size=patch_size,
        out_channels=fields.choice(channels_field, 3, channels),
        latents_mean=fields.numbers("latents_mean", WAN_2_1_MEAN, z_dim),
        latents_std=fields.numbers("latents_std", WAN_2_1_STD, z_dim, positive=True),
    )
    _check_widths(parsed, source)
    return parsed


def wan_state_shapes(config: WanConfig, height: int, width: int) -> list[tuple[int, int, int]]:
    """Channels, height and width of what each causal convolution takes, in the order the decoder runs them.

    The state of each is the last `HISTORY_FRAMES` frames of that. `height` and `width` are a latent's.
    """
    shapes = [(config.z_dim, height, width)]
    shapes += 4 * [(config.widths[0], height, width)]
    for index, (before, after) in enumerate(pairwise(config.widths)):
        # Without the shortcuts of Wan 2.2, upsampling halves the channels.
        channels = before // 2 if index and not config.is_residual else before
        shapes.append((channels, height, width))
        shapes += (2 * config.num_res_blocks + 1) * [(after, height, width)]
        if index < len(config.time_doublings):
            if config.time_doublings[index]:
                shapes.append((after, height, width))
            height, width = 2 * height, 2 * width
    return [*shapes, (config.widths[-1], height, width)]


def wan_receptive_latents(config: WanConfig) -> int:
    """How many latents back a frame depends on, its own included, far from the start of a clip.

    Follows the first frame of a latent from the decoder's end to its start: a causal convolution looks back
    `HISTORY_FRAMES` frames of its own frame rate; before time is doubled, frame `t` was frame `t // 2`.
    """
    stage = 2 * HISTORY_FRAMES * (config.num_res_blocks + 1)
    frame = -HISTORY_FRAMES - stage
    for doubled in reversed(config.time_doublings):
        if doubled:
            frame = frame // 2 - HISTORY_FRAMES
        frame -= stage
    middle_and_first = 5 * HISTORY_FRAMES
    return 1 + middle_and_first - frame


def wan_spec(name: str, config: WanConfig) -> DecoderSpec:
    """Describe the decoder to those who don't run it."""
    spatial_factor = 2 ** (len(config.dim_mult) - 1) * config.pixels
    # Of a latent of one cell each way.
    elements = sum(HISTORY_FRAMES * c * h * w for c, h, w in wan_state_shapes(config, 1, 1))
    return DecoderSpec(
        name=name,
        channels=config.z_dim,
        spatial_factor=spatial_factor,
        temporal_factor=2 ** sum(config.temperal_downsample),
        first_frames=1,
        lookahead_latents=0,
        exactness=Exactness.FULL,
        receptive_latents=wan_receptive_latents(config),
        state_bytes_per_pixel=elements * _STATE_ITEMSIZE_BYTES / spatial_factor**2,
        latent_mean=config.latents_mean,
        latent_std=config.latents_std,
    )


def _check_widths(config: WanConfig, source: str) -> None:
    """Refuse widths that the network's own halvings and shortcuts can't take."""
    for doubled, (before, after) in zip(config.time_doublings, pairwise(config.widths), strict=False):
        if config.is_residual:
            fits = after * 4 * (2 if doubled else 1) % before == 0
            allowed = "widths that divide what the shortcut of the stage after them repeats"
        else:
            fits, allowed = after % 2 == 0, "even widths for stages that upsample"
        if not fits:
            widths = f"{list(config.dim_mult)} times {config.decoder_base_dim}"
            raise InvalidInput(f"{source} dim_mult", widths, allowed)
