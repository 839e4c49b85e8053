"""The shape of an AutoencoderKL's decoder, a VAE of single pictures: read from diffusers' config.json. Pure.

Source: class AutoencoderKL in huggingface/diffusers 0.42.1, and how its pipelines undo the scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.config_fields import ConfigFields
from framehaul_pipeline.spec import DecoderSpec, Exactness

_UP_BLOCK: Final = "UpDecoderBlock2D"
_MAX_BLOCKS: Final = 6


def parse_autoencoder_kl_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check a config.json; gives arguments of diffusers' constructor, all that matter to the decoder.

    Raises:
        InvalidInput: names the field, its value and what is allowed.
    """
    fields = ConfigFields(config)
    widths = fields.wholes("block_out_channels", (64,), 1, 4096, _MAX_BLOCKS)
    up_block_types = config.get("up_block_types", [_UP_BLOCK])
    if up_block_types != [_UP_BLOCK] * len(widths):
        raise InvalidInput("config.json up_block_types", up_block_types, f"{len(widths)} times {_UP_BLOCK}")
    groups = fields.whole("norm_num_groups", 32, 1, 4096)
    for width in widths:
        if width % groups:
            raise InvalidInput("config.json block_out_channels", list(widths), f"multiples of norm_num_groups={groups}")
    latent_channels = fields.whole("latent_channels", 4, 1, 256)
    parsed: dict[str, Any] = {
        "out_channels": fields.choice("out_channels", 3, (3,)),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": [_UP_BLOCK] * len(widths),
        "block_out_channels": list(widths),
        "layers_per_block": fields.whole("layers_per_block", 1, 1, 16),
        "act_fn": fields.choice("act_fn", "silu", ("silu", "swish", "mish", "gelu", "relu")),
        "latent_channels": latent_channels,
        "norm_num_groups": groups,
        "scaling_factor": fields.number("scaling_factor", 0.18215, positive=True),
        "shift_factor": fields.number("shift_factor", 0.0) if fields.is_set("shift_factor") else None,
        "use_post_quant_conv": fields.flag("use_post_quant_conv", default=True),
        "mid_block_add_attention": fields.flag("mid_block_add_attention", default=True),
    }
    if fields.is_set("latents_mean") and fields.is_set("latents_std"):
        parsed["latents_mean"] = list(fields.numbers("latents_mean", (), latent_channels))
        parsed["latents_std"] = list(fields.numbers("latents_std", (), latent_channels, positive=True))
    return parsed


def autoencoder_kl_spec(name: str, config: Mapping[str, Any]) -> DecoderSpec:
    """Describe the decoder, from what `parse_autoencoder_kl_config` gave, to those who don't run it."""
    channels, scale = config["latent_channels"], config["scaling_factor"]
    mean = config.get("latents_mean", [config["shift_factor"] or 0.0] * channels)
    std = config.get("latents_std", [1.0] * channels)
    return DecoderSpec(
        name=name,
        channels=channels,
        spatial_factor=2 ** (len(config["block_out_channels"]) - 1),
        temporal_factor=1,
        first_frames=1,
        lookahead_latents=0,
        exactness=Exactness.FULL,
        receptive_latents=1,
        state_bytes_per_pixel=0.0,
        latent_mean=tuple(mean),
        latent_std=tuple(value / scale for value in std),
    )
