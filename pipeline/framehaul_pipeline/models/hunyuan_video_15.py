"""The shape of HunyuanVideo 1.5's decoder, from a config.json or from the weights' header. Pure.

Its convolutions are causal, and its one attention block sees all frames up to its own. So a session remembers each
convolution's last two frames, and the keys and values of every latent so far.

Source: class AutoencoderKLHunyuanVideo15 in huggingface/diffusers 0.42.1, how its pipeline undoes the scaling, and
`convert_hunyuan_video_15_vae_checkpoint_to_diffusers` in its scripts for the names of the authors' own code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any, Final

from framehaul.safetensors import StoredTensor
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.config_fields import ConfigFields
from framehaul_pipeline.models.safetensors_files import bare_names
from framehaul_pipeline.spec import UNTOLD_LATENTS, DecoderSpec, Exactness

DIFFUSERS_CLASS: Final = "AutoencoderKLHunyuanVideo15"
ORIGINAL_CLASS: Final = "AutoencoderKLConv3D"
_SPATIAL_FACTOR: Final = 16
_TEMPORAL_FACTOR: Final = 4
_UPSAMPLED: Final = (8, 8, 4, 4)
"""Values that each block's upsampling makes of one, in the order of decoding: 2x2 pixels, at first of two frames."""
_NUM_BLOCKS: Final = len(_UPSAMPLED) + 1
_STATE_ITEMSIZE_BYTES: Final = 2
_PARTS: Final = (
    (re.compile(r"\.mid\.block_1\."), ".mid_block.resnets.0."),
    (re.compile(r"\.mid\.block_2\."), ".mid_block.resnets.1."),
    (re.compile(r"\.mid\.attn_1\.([qkv])\."), r".mid_block.attentions.0.to_\1."),
    (re.compile(r"\.mid\.attn_1\."), ".mid_block.attentions.0."),
    (re.compile(r"\.up\.(\d+)\.block\."), r".up_blocks.\1.resnets."),
    (re.compile(r"\.up\.(\d+)\.upsample\."), r".up_blocks.\1.upsamplers.0."),
)
_MARKS: Final = {"decoder.conv_in.conv.weight", "decoder.mid_block.attentions.0.norm.gamma"}
"""Tensors that no other VAE has together."""


def parse_hunyuan_video_15_config(config: Mapping[str, Any], source: str = "config.json") -> dict[str, Any]:
    """Check a config.json, diffusers' or the authors'; gives arguments of diffusers' constructor, and `shift_factor`.

    Raises:
        InvalidInput: names the field, its value and what is allowed.
    """
    fields = ConfigFields(config, source)
    spatial, temporal = "spatial_compression_ratio", "temporal_compression_ratio"
    if config.get("_class_name") == ORIGINAL_CLASS:
        spatial, temporal = "ffactor_spatial", "ffactor_temporal"
    fields.choice(spatial, _SPATIAL_FACTOR, (_SPATIAL_FACTOR,))
    fields.choice(temporal, _TEMPORAL_FACTOR, (_TEMPORAL_FACTOR,))
    fields.choice("upsample_match_channel", True, (True,))
    channels = fields.whole("latent_channels", 32, 1, 256)
    widths = fields.wholes("block_out_channels", (128, 256, 512, 1024, 1024), 1, 8192, _NUM_BLOCKS)
    if not _fit(widths[::-1], channels):
        allowed = f"{_NUM_BLOCKS} numbers that fit latent_channels={channels} and each other, as in the published model"
        raise InvalidInput(f"{source} block_out_channels", list(widths), allowed)
    return {
        "out_channels": fields.choice("out_channels", 3, (3,)),
        "latent_channels": channels,
        "block_out_channels": list(widths),
        "layers_per_block": fields.whole("layers_per_block", 2, 1, 16),
        "scaling_factor": fields.number("scaling_factor", 1.03682, positive=True),
        "shift_factor": fields.number("shift_factor", 0.0) if fields.is_set("shift_factor") else 0.0,
    }


def hunyuan_video_15_spec(name: str, config: Mapping[str, Any]) -> DecoderSpec:
    """Describe the decoder, from what `parse_hunyuan_video_15_config` gave, to those who don't run it."""
    channels = config["latent_channels"]
    cells = _SPATIAL_FACTOR**2
    values = 2 * sum(width * scale**2 for width, scale in convolved(config))
    growth_bytes = 2 * config["block_out_channels"][-1] / cells * _STATE_ITEMSIZE_BYTES
    return DecoderSpec(
        name=name,
        channels=channels,
        spatial_factor=_SPATIAL_FACTOR,
        temporal_factor=_TEMPORAL_FACTOR,
        first_frames=1,
        lookahead_latents=0,
        exactness=Exactness.FULL,
        receptive_latents=None,
        state_bytes_per_pixel=values / cells * _STATE_ITEMSIZE_BYTES + UNTOLD_LATENTS * growth_bytes,
        growth_bytes_per_pixel=growth_bytes,
        latent_mean=(config["shift_factor"],) * channels,
        latent_std=(1.0 / config["scaling_factor"],) * channels,
    )


def convolved(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Of each causal convolution, in the order of decoding: channels that it takes, and values each way for a cell."""
    widths = config["block_out_channels"][::-1]
    found = [(config["latent_channels"], 1)] + [(widths[0], 1)] * 4
    for block, width in enumerate(widths):
        found += [(width, 2**block)] * (2 * (config["layers_per_block"] + 1) + (block < len(_UPSAMPLED)))
    return [*found, (widths[-1], _SPATIAL_FACTOR)]


def rename_hunyuan_video_15(names: Collection[str]) -> dict[str, str]:
    """Diffusers' name for each bare one; what means nothing here stays as it is."""
    return {name: _rename(name) for name in names}


def is_hunyuan_video_15(header: Mapping[str, StoredTensor]) -> bool:
    """Whether a weights file is a VAE of HunyuanVideo 1.5."""
    return {*rename_hunyuan_video_15(bare_names(header).values()).values()} >= _MARKS


def infer_hunyuan_video_15_config(header: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """Find the VAE's numbers from the header of its weights file; what isn't seen there is as published.

    Raises:
        InvalidInput: it is none that is known.
    """
    bare = bare_names(header)
    names = rename_hunyuan_video_15(bare.values())
    shapes = {names[name]: header[stored_name].shape for stored_name, name in bare.items()}
    layers = [name for name in shapes if re.fullmatch(r"decoder\.up_blocks\.0\.resnets\.\d+\.norm1\.gamma", name)]
    convs = [f"decoder.up_blocks.{block}.resnets.0.conv2.conv.weight" for block in reversed(range(_NUM_BLOCKS))]
    return parse_hunyuan_video_15_config(
        {
            "latent_channels": _size(shapes, "decoder.conv_in.conv.weight", 1),
            "block_out_channels": [_size(shapes, conv, 0) for conv in convs],
            "layers_per_block": len(layers) - 1,
        },
        source="weights",
    )


def _fit(widths: tuple[int, ...], latent_channels: int) -> bool:
    """Whether channels repeat a whole number of times wherever they do; `widths` in the order of decoding."""
    if len(widths) != _NUM_BLOCKS or widths[0] % latent_channels:
        return False
    return all(
        # Of the clip's first frame half as many are made where time is doubled.
        width % made == 0 and made * after % (width * (2 if made == 8 else 1)) == 0
        for made, (width, after) in zip(_UPSAMPLED, pairwise(widths), strict=True)
    )


def _rename(name: str) -> str:
    for old, new in _PARTS:
        name = old.sub(new, name, count=1)
    return name


def _size(shapes: Mapping[str, tuple[int, ...]], name: str, axis: int) -> int:
    shape = shapes.get(name, ())
    if len(shape) != 5 or not shape[axis]:
        allowed = "there with 5 dimensions, as in HunyuanVideo 1.5's VAE"
        raise InvalidInput(f"weights {name}", f"shape {list(shape)}", allowed)
    return shape[axis]
