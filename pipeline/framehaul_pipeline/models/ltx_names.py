"""What a lone weights file of an LTX VAE says of itself: its tensors' names and shapes. Pure.

Such files have the names of the authors' own code, whose decoder is one list: residual blocks of one width, a residual
block that changes the width, or an upsampler. Source: `convert_ltx_vae_checkpoint_to_diffusers` and
`convert_ltx2_vae_to_diffusers` in huggingface/diffusers 0.42.1, and the configs in its scripts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from framehaul.safetensors import StoredTensor
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.ltx import LTX_2, LTX_VIDEO, STRIDES
from framehaul_pipeline.models.safetensors_files import bare_names

MARK: Final = "decoder.up_blocks.0.res_blocks.0.conv1.conv.weight"
"""A tensor that files with the authors' names have, and files with diffusers' names don't."""
ORIGINAL_STATISTICS: Final = {
    "per_channel_statistics.mean-of-means": "latents_mean",
    "per_channel_statistics.std-of-means": "latents_std",
}
_PREFIXES: Final = {
    "decoder.last_time_embedder.": "decoder.time_embedder.",
    "decoder.last_scale_shift_table": "decoder.scale_shift_table",
    **ORIGINAL_STATISTICS,
}
_PARTS: Final = {"res_blocks.": "resnets.", "norm3.norm.": "norm3.", "conv_shortcut.": "conv_shortcut.conv."}
_BLOCK: Final = re.compile(r"decoder\.up_blocks\.(\d+)\.(.*)")


def is_ltx(header: Mapping[str, StoredTensor]) -> bool:
    """Whether a weights file is an LTX VAE's, with the authors' names."""
    return MARK in bare_names(header).values()


def rename_ltx(names: Collection[str]) -> dict[str, str]:
    """Diffusers' name for each bare one; what means nothing here, or is the encoder's, stays as it is."""
    if MARK not in names:
        return {name: name for name in names}
    places = _places(names)
    return {name: _rename(name, places) for name in names}


def infer_ltx_config(header: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """Find an LTX VAE's numbers from the header of its weights file, under the names of a config.json.

    What can't be seen there is as in the published models, which are told by what can.

    Raises:
        InvalidInput: it is none of them.
    """
    bare = bare_names(header)
    names = rename_ltx(bare.values())
    shapes = {names[name]: header[stored_name].shape for stored_name, name in bare.items()}
    num_blocks = len({name.split(".")[2] for name in shapes if name.startswith("decoder.up_blocks.")})
    blocks = [f"decoder.up_blocks.{index}" for index in range(num_blocks)]
    widths = [_size(shapes, f"{block}.resnets.0.conv1.conv.weight", 0) for block in blocks]
    factors, types, scaled = [], [], []
    for block, width in zip(blocks, widths, strict=True):
        conv = f"{block}.upsamplers.0.conv.conv.weight"
        scaled.append(conv in shapes)
        factors.append(_size(shapes, conv, 1) // width if scaled[-1] else 1)
        types.append(_upsample_type(_size(shapes, conv, 0) // width if scaled[-1] else 8))
    has_timestep = any(name.startswith("decoder.time_embedder.") for name in shapes)
    halves = set(factors) != {1}
    is_ltx_2 = halves and not has_timestep
    all_alike = set(types) == {"spatiotemporal"}
    parts = [*reversed(blocks), "decoder.mid_block"]
    return {
        "_class_name": LTX_2 if is_ltx_2 else LTX_VIDEO,
        "latent_channels": _size(shapes, "decoder.conv_in.conv.weight", 1),
        "decoder_block_out_channels": [
            width * factor for width, factor in zip(reversed(widths), reversed(factors), strict=True)
        ],
        "decoder_layers_per_block": [sum(_is_layer(name, part) for name in shapes) for part in parts],
        "decoder_spatio_temporal_scaling": scaled[::-1],
        "decoder_inject_noise": [f"{part}.resnets.0.per_channel_scale1" in shapes for part in parts],
        "upsample_residual": [halves and all_alike] * num_blocks,
        "upsample_factor": factors[::-1],
        "upsample_type": types,
        "timestep_conditioning": has_timestep,
        "patch_size": math.isqrt(_size(shapes, "decoder.conv_out.conv.weight", 0) // 3),
        "decoder_causal": False,
        "decoder_spatial_padding_mode": "reflect" if all_alike else "zeros",
    }


def _places(names: Collection[str]) -> list[str]:
    """Of each part of the authors' list, what diffusers calls it."""
    numbers = {int(match[1]) for name in names if (match := _BLOCK.fullmatch(name))}
    places, block = ["decoder.mid_block."], 0
    for number in sorted(numbers - {0}):
        prefix, place = f"decoder.up_blocks.{number}.", f"decoder.up_blocks.{block}."
        if any(name.startswith(f"{prefix}res_blocks.") for name in names):
            places.append(place)
            block += 1
        else:
            is_upsampler = any(name.startswith(f"{prefix}conv.") for name in names)
            places.append(f"{place}upsamplers.0." if is_upsampler else f"{place}conv_in.")
    return places


def _rename(name: str, places: list[str]) -> str:
    for old, new in _PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    match = _BLOCK.fullmatch(name)
    if match is None or int(match[1]) >= len(places):
        return name
    part = match[2]
    for old, new in _PARTS.items():
        if part.startswith(old):
            part = new + part.removeprefix(old)
    return places[int(match[1])] + part


def _upsample_type(made: int) -> str:
    types = {frames * pixels**2: name for name, (frames, pixels) in STRIDES.items()}
    if made not in types:
        raise InvalidInput("weights upsamplers.0", f"{made} times the channels", f"one of {sorted(types)}")
    return types[made]


def _is_layer(name: str, part: str) -> bool:
    return name.startswith(f"{part}.resnets.") and name.endswith(".conv1.conv.weight")


def _size(shapes: Mapping[str, tuple[int, ...]], name: str, axis: int) -> int:
    shape = shapes.get(name, ())
    if len(shape) != 5 or not shape[axis]:
        raise InvalidInput(f"weights {name}", f"shape {list(shape)}", "there with 5 dimensions, as in an LTX VAE")
    return shape[axis]
