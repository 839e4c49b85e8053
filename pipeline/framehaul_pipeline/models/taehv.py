"""The small decoders of the TAEHV family: what a weights file of theirs says of itself, by its tensors' names. Pure.

Each decodes another model's latents, much faster and less exactly than that model's own VAE. Source of the structure,
of the names and of the time rule: class TAEHV in taehv.py of madebyollin/taehv at 1f14a56 (MIT).

MiniMax-H3's clips begin anew each 5 latents: so the first of each 5 gives one frame, though the network remembers on.

They take what the diffusion model makes, before that model's mean and deviation are undone. So that they may be put in
a VAE's place, latents are taken in that VAE's scale here, and brought back to the diffusion model's by the decoder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import msgspec

from framehaul.safetensors import StoredTensor
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.minimax_h3 import TILE_STRIDE_LATENTS
from framehaul_pipeline.models.wan import WAN_2_1_MEAN, WAN_2_1_STD, WAN_2_2_MEAN, WAN_2_2_STD
from framehaul_pipeline.spec import DecoderSpec, Exactness

MARK: Final = "decoder.22.bias"
"""The last convolution's, in all files of the family and in no other VAE's."""
BLOCKS: Final = 3
"""Of a stage; each remembers one frame."""
_SUPER_MARK: Final = "decoder.0.weight"
_STATE_ITEMSIZE_BYTES: Final = 2
# Scaling factors: `vae/config.json` of HunyuanVideo and of HunyuanVideo 1.5, by which their pipelines divide.
_HUNYUAN_VIDEO: Final = ((0.0,) * 16, (1 / 0.476986,) * 16)
_HUNYUAN_VIDEO_1_5: Final = ((0.0,) * 32, (1 / 1.03682,) * 32)
_H3_CHANNELS: Final = 24
_BY_CHANNELS: Final = {
    32: _HUNYUAN_VIDEO_1_5,
    48: (WAN_2_2_MEAN, WAN_2_2_STD),
    # MiniMax-H3 and LTX: the numbers lie in each version's VAE.
    _H3_CHANNELS: ((), ()),
    128: ((), ()),
}
_BY_NAME: Final = {"taew2_1": (WAN_2_1_MEAN, WAN_2_1_STD), "taehv": _HUNYUAN_VIDEO}
"""Of 16 latent channels, whose files are alike."""
_NAME: Final = re.compile("|".join(_BY_NAME))


class TaehvConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that a decoder of the family is built from."""

    latent_channels: int
    widths: tuple[int, ...]
    """Channels of its three stages, and of the last convolution's input."""
    time_factors: tuple[int, ...]
    """Frames that each stage gives for one that it takes, 1 or 2."""
    patch_size: int
    """Pixels that the last convolution writes each way."""
    is_super: bool
    """The larger variant, of depthwise convolutions."""
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]
    """Of the VAE whose latents it decodes, per channel; empty: not known, latents are normalized."""


def is_taehv(header: Mapping[str, StoredTensor]) -> bool:
    """Whether a weights file is one of the family's."""
    return MARK in header


def infer_taehv_config(header: Mapping[str, StoredTensor], file_name: str) -> TaehvConfig:
    """Find a decoder's numbers from the header of its weights file.

    Args:
        header: its tensors.
        file_name: tells the models apart whose files are alike.

    Raises:
        InvalidInput: it isn't known how its latents become frames.
    """
    is_super = _SUPER_MARK in header
    layers = SUPER_LAYERS if is_super else LAYERS
    latent_channels = _size(header, f"decoder.{layers.enter}.weight", 1)
    widths = [_size(header, f"decoder.{layers.enter}.weight", 0)]
    time_factors = []
    for grow, leave in zip(layers.grows, layers.leaves, strict=True):
        wide = _size(header, f"decoder.{grow}.conv.weight", 1)
        time_factors.append(_size(header, f"decoder.{grow}.conv.weight", 0) // max(1, wide))
        widths.append(wide if is_super else _size(header, f"decoder.{leave}.weight", 0))
    patch_size = math.isqrt(_size(header, MARK, 0) // 3)
    if not set(time_factors) <= {1, 2} or min(widths) < 1 or patch_size < 1:
        raise InvalidInput("weights", f"widths {widths}, time factors {time_factors}", "those of a TAEHV decoder")
    mean, std = _statistics(latent_channels, file_name)
    return TaehvConfig(
        latent_channels=latent_channels,
        widths=tuple(widths),
        time_factors=tuple(time_factors),
        patch_size=patch_size,
        is_super=is_super,
        latents_mean=mean,
        latents_std=std,
    )


class Layers(msgspec.Struct, frozen=True, kw_only=True):
    """Where the layers of a decoder stand in its list, whose numbers are part of the tensors' names."""

    enter: int
    blocks: tuple[tuple[int, ...], ...]
    """Of each stage."""
    grows: tuple[int, ...]
    """Of each stage the 1x1 convolution that makes a frame two."""
    leaves: tuple[int, ...]
    """Of each stage the convolution to the next one's channels."""


LAYERS: Final = Layers(enter=1, blocks=((3, 4, 5), (9, 10, 11), (15, 16, 17)), grows=(7, 13, 19), leaves=(8, 14, 20))
SUPER_LAYERS: Final = Layers(
    enter=0, blocks=((1, 2, 3), (8, 9, 10), (15, 16, 17)), grows=(7, 14, 21), leaves=(4, 11, 18)
)
LAST: Final = 22


def taehv_receptive_latents(config: TaehvConfig) -> int:
    """How many latents back a frame depends on, its own included: each block looks one frame back."""
    frame = 0
    for time_factor in reversed(config.time_factors):
        frame = frame // time_factor - BLOCKS
    return 1 - frame


def taehv_state_shapes(config: TaehvConfig, height: int, width: int) -> list[tuple[int, int, int]]:
    """Channels, height and width of the frame that each block remembers; `height` and `width` are a latent's."""
    return [
        (channels, height << stage, width << stage)
        for stage, (channels, _) in enumerate(pairwise(config.widths))
        for _ in range(BLOCKS)
    ]


def taehv_spec(name: str, config: TaehvConfig) -> DecoderSpec:
    """Describe the decoder to those who don't run it."""
    spatial_factor = 2 ** len(config.time_factors) * config.patch_size
    elements = sum(c * h * w for c, h, w in taehv_state_shapes(config, 1, 1))
    return DecoderSpec(
        name=name,
        channels=config.latent_channels,
        spatial_factor=spatial_factor,
        temporal_factor=math.prod(config.time_factors),
        first_frames=1,
        period_latents=TILE_STRIDE_LATENTS if config.latent_channels == _H3_CHANNELS else 0,
        lookahead_latents=0,
        exactness=Exactness.FULL,
        receptive_latents=taehv_receptive_latents(config),
        state_bytes_per_pixel=elements * _STATE_ITEMSIZE_BYTES / spatial_factor**2,
        latent_mean=config.latents_mean,
        latent_std=config.latents_std,
    )


def _statistics(latent_channels: int, file_name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if latent_channels in _BY_CHANNELS:
        return _BY_CHANNELS[latent_channels]
    if latent_channels != 16:
        allowed = f"one of 16, {', '.join(map(str, _BY_CHANNELS))}"
        raise InvalidInput("weights latent channels", latent_channels, allowed)
    found = {match[0] for match in _NAME.finditer(file_name)}
    if len(found) != 1:
        allowed = f"one with {' or '.join(_BY_NAME)} in it: their files differ in nothing but the numbers"
        raise InvalidInput("weights file name", file_name, allowed)
    return _BY_NAME[found.pop()]


def _size(header: Mapping[str, StoredTensor], name: str, axis: int) -> int:
    if name not in header or axis >= len(header[name].shape):
        raise InvalidInput("weights", f"no {name}", "all tensors of a TAEHV decoder")
    return header[name].shape[axis]
