"""The shape of HunyuanVideo 1.0's decoder and of its temporal tiles: read from diffusers' config.json. Pure.

Source: class AutoencoderKLHunyuanVideo in huggingface/diffusers 0.42.1, and how its pipeline undoes the scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.config_fields import ConfigFields
from framehaul_pipeline.spec import DecoderSpec, Exactness

SPATIAL_FACTOR: Final = 8
TEMPORAL_FACTOR: Final = 4
TILE_FRAMES: Final = 16
TILE_STRIDE_FRAMES: Final = 12
"""The library's `tile_sample_min_num_frames` and `tile_sample_stride_num_frames`."""
TILE_LATENTS: Final = TILE_FRAMES // TEMPORAL_FACTOR + 1
TILE_STRIDE_LATENTS: Final = TILE_STRIDE_FRAMES // TEMPORAL_FACTOR
FADE_FRAMES: Final = TILE_FRAMES - TILE_STRIDE_FRAMES
_NUM_BLOCKS: Final = 4
_UP_BLOCKS: Final = ["HunyuanVideoUpBlock3D"] * _NUM_BLOCKS


def parse_hunyuan_video_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check a config.json; gives arguments of diffusers' constructor, all that matter to the decoder.

    Raises:
        InvalidInput: names the field, its value and what is allowed.
    """
    fields = ConfigFields(config)
    fields.choice("spatial_compression_ratio", SPATIAL_FACTOR, (SPATIAL_FACTOR,))
    fields.choice("temporal_compression_ratio", TEMPORAL_FACTOR, (TEMPORAL_FACTOR,))
    groups = fields.whole("norm_num_groups", 32, 1, 4096)
    widths = fields.wholes("block_out_channels", (128, 256, 512, 512), 1, 4096, _NUM_BLOCKS)
    if len(widths) != _NUM_BLOCKS or any(width % groups for width in widths):
        allowed = f"{_NUM_BLOCKS} multiples of norm_num_groups={groups}"
        raise InvalidInput("config.json block_out_channels", list(widths), allowed)
    up_block_types = config.get("up_block_types", _UP_BLOCKS)
    if not isinstance(up_block_types, list) or up_block_types != _UP_BLOCKS:
        raise InvalidInput("config.json up_block_types", up_block_types, f"{_NUM_BLOCKS} times {_UP_BLOCKS[0]}")
    return {
        "out_channels": fields.choice("out_channels", 3, (3,)),
        "latent_channels": fields.whole("latent_channels", 16, 1, 256),
        "block_out_channels": list(widths),
        "layers_per_block": fields.whole("layers_per_block", 2, 1, 16),
        "act_fn": fields.choice("act_fn", "silu", ("silu", "swish", "mish", "gelu", "relu")),
        "norm_num_groups": groups,
        "scaling_factor": fields.number("scaling_factor", 0.476986, positive=True),
        "mid_block_add_attention": fields.flag("mid_block_add_attention", default=True),
    }


def hunyuan_video_spec(name: str, config: Mapping[str, Any]) -> DecoderSpec:
    """Describe the decoder, from what `parse_hunyuan_video_config` gave, to those who don't run it.

    A frame depends on its own tile and on the one it is cross-faded with, so on all latents of two tiles; but where
    tiles begin depends on the clip's beginning, and a session can't be begun inside one.
    """
    channels = config["latent_channels"]
    held_latents = (TILE_LATENTS - 1) * channels / SPATIAL_FACTOR**2
    return DecoderSpec(
        name=name,
        channels=channels,
        spatial_factor=SPATIAL_FACTOR,
        temporal_factor=TEMPORAL_FACTOR,
        first_frames=1,
        lookahead_latents=TILE_LATENTS - 1,
        exactness=Exactness.LIBRARY_TILES,
        receptive_latents=None,
        state_bytes_per_pixel=2 * (FADE_FRAMES * 3 + held_latents),
        latent_mean=(0.0,) * channels,
        latent_std=(1.0 / config["scaling_factor"],) * channels,
        tile_latents=TILE_LATENTS,
        tile_stride_latents=TILE_STRIDE_LATENTS,
    )
