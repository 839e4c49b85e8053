"""The shape of MiniMax-H3's video decoder and of its temporal tiles: read from diffusers' config.json. Pure.

The encoder cuts a video into clips of 17 frames, each of 5 latents, of which the first is one frame. The decoder takes
those 5 and the 2 after them, and fades the 5 frames of these over into the next tile's. Its frames come out with the
mean and deviation of ImageNet's pictures, which the pipeline undoes.

Source: class AutoencoderKLMiniMaxH3 in huggingface/diffusers 0.42.1, and the pipeline that calls it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.config_fields import ConfigFields
from framehaul_pipeline.spec import DecoderSpec, Exactness

SPATIAL_FACTOR: Final = 16
TEMPORAL_FACTOR: Final = 4
CLIP_FRAMES: Final = 17
TOKEN_DROP: Final = 3
TILE_STRIDE_LATENTS: Final = 5
FADE_LATENTS: Final = 2
TILE_LATENTS: Final = TILE_STRIDE_LATENTS + FADE_LATENTS
FADE_FRAMES: Final = 5
PIXEL_MEAN: Final = (0.485, 0.456, 0.406)
PIXEL_STD: Final = (0.229, 0.224, 0.225)


def parse_minimax_h3_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check a config.json; gives arguments of diffusers' constructor, all that matter to the decoder.

    Raises:
        InvalidInput: names the field, its value and what is allowed.
    """
    fields = ConfigFields(config)
    for name, default, factor in (
        ("spatial_downsample_factors", (2, 2, 2, 2, 1, 1), SPATIAL_FACTOR),
        ("temporal_downsample_factors", (1, 2, 2, 1, 1, 1), TEMPORAL_FACTOR),
    ):
        factors = fields.wholes(name, default, 1, factor, 8)
        if math.prod(factors) != factor:
            raise InvalidInput(f"config.json {name}", list(factors), f"factors of {factor}")
    channels = fields.whole("latent_channels", 24, 1, 256)
    heads = fields.whole("decoder_num_attention_heads", 32, 1, 256)
    head_dim = fields.whole("decoder_attention_head_dim", 64, 1, 1024)
    rotated = fields.number("decoder_rope_dim_ratio", 0.75, positive=True)
    if int(head_dim * rotated) % 6 or rotated > 1:
        allowed = f"a part of decoder_attention_head_dim={head_dim} that is a multiple of 6"
        raise InvalidInput("config.json decoder_rope_dim_ratio", rotated, allowed)
    return {
        "out_channels": fields.choice("out_channels", 3, (3,)),
        "latent_channels": channels,
        "decoder_num_layers": fields.whole("decoder_num_layers", 36, 1, 256),
        "decoder_num_attention_heads": heads,
        "decoder_attention_head_dim": head_dim,
        "decoder_num_register_tokens": fields.whole("decoder_num_register_tokens", 4, 0, 1024),
        "decoder_ffn_mult": fields.whole("decoder_ffn_mult", 4, 1, 64),
        "decoder_rope_theta": fields.number("decoder_rope_theta", 100.0, positive=True),
        "decoder_rope_dim_ratio": rotated,
        "decoder_norm_eps": fields.number("decoder_norm_eps", 1e-5, positive=True),
        "clip_length": fields.choice("clip_length", CLIP_FRAMES, (CLIP_FRAMES,)),
        "token_drop": fields.choice("token_drop", TOKEN_DROP, (TOKEN_DROP,)),
        "latents_mean": list(fields.numbers("latents_mean", (0.0,) * channels, channels)),
        "latents_std": list(fields.numbers("latents_std", (1.0,) * channels, channels, positive=True)),
    }


def minimax_h3_spec(name: str, config: Mapping[str, Any]) -> DecoderSpec:
    """Describe the decoder, from what `parse_minimax_h3_config` gave, to those who don't run it.

    As with all tiles, where they begin depends on the clip's beginning, and a session can't be begun inside one.
    """
    channels = config["latent_channels"]
    held_latents = (TILE_LATENTS - 1) * channels / SPATIAL_FACTOR**2
    return DecoderSpec(
        name=name,
        channels=channels,
        spatial_factor=SPATIAL_FACTOR,
        temporal_factor=TEMPORAL_FACTOR,
        first_frames=1,
        period_latents=TILE_STRIDE_LATENTS,
        lookahead_latents=TILE_LATENTS - 1,
        exactness=Exactness.LIBRARY_TILES,
        receptive_latents=None,
        state_bytes_per_pixel=2 * (FADE_FRAMES * 3 + held_latents),
        latent_mean=tuple(config["latents_mean"]),
        latent_std=tuple(config["latents_std"]),
        tile_latents=TILE_LATENTS,
        tile_stride_latents=TILE_STRIDE_LATENTS,
        tile_lead_latents=0,
    )
