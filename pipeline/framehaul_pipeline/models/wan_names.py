"""What a lone weights file of a Wan VAE says of itself: its tensors' names and shapes. Pure.

Files come with diffusers' names or with those of the authors' own code (Wan2.1_VAE, ComfyUI's wan_2.1_vae). The
latter's decoder is one list of residual blocks and resamplers, in Wan 2.2 a list of such lists. Source: wan/modules
vae.py of Wan-Video/Wan2.1 and vae2_2.py of Wan-Video/Wan2.2.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from framehaul.safetensors import StoredTensor
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.safetensors_files import bare_names, first_parts
from framehaul_pipeline.models.wan import (
    WAN_2_1_MEAN,
    WAN_2_1_STD,
    WAN_2_2_MEAN,
    WAN_2_2_STD,
    WanConfig,
    parse_wan_config,
)

ORIGINAL_MARK: Final = "decoder.middle.0.residual.0.gamma"
"""A tensor that files with the authors' names have, and files with diffusers' names don't."""
_PUBLISHED: Final = {len(mean): (mean, std) for mean, std in ((WAN_2_1_MEAN, WAN_2_1_STD), (WAN_2_2_MEAN, WAN_2_2_STD))}
_PREFIXES: Final = {
    "conv2.": "post_quant_conv.",
    "conv1.": "quant_conv.",
    "decoder.conv1.": "decoder.conv_in.",
    "decoder.middle.0.": "decoder.mid_block.resnets.0.",
    "decoder.middle.1.": "decoder.mid_block.attentions.0.",
    "decoder.middle.2.": "decoder.mid_block.resnets.1.",
    "decoder.head.0.": "decoder.norm_out.",
    "decoder.head.2.": "decoder.conv_out.",
}
_BLOCK_PARTS: Final = {
    "residual.0.": "norm1.",
    "residual.2.": "conv1.",
    "residual.3.": "norm2.",
    "residual.6.": "conv2.",
    "shortcut.": "conv_shortcut.",
}
_FLAT: Final = re.compile(r"decoder\.upsamples\.(\d+)\.((?:residual|shortcut|resample|time_conv)\..*)")
_NESTED: Final = re.compile(r"decoder\.upsamples\.(\d+)\.upsamples\.(\d+)\.(.*)")
_RESAMPLER: Final = re.compile(r"decoder\.upsamples\.((?:\d+\.upsamples\.)?\d+)\.resample\.")
_RESNET: Final = re.compile(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight")


def rename_wan(names: Collection[str]) -> dict[str, str]:
    """Diffusers' name for each bare one; what means nothing here, or is the encoder's, stays as it is."""
    if ORIGINAL_MARK not in names:
        return {name: name for name in names}
    resamplers = {match[1] for name in names if (match := _RESAMPLER.match(name))}
    flat = sorted(int(index) for index in resamplers if index.isdecimal())
    return {name: _rename(name, resamplers, flat) for name in names}


def infer_wan_config(header: Mapping[str, StoredTensor]) -> WanConfig:
    """Find a Wan VAE's numbers from the header of its weights file; mean and deviation are the published ones.

    Raises:
        InvalidInput: it is no Wan VAE, or none whose mean and deviation are known.
    """
    shapes = _shapes(header)
    z_dim = _size(shapes, "decoder.conv_in.weight", 1)
    out_channels = _size(shapes, "decoder.conv_out.weight", 0)
    resnets = [(int(match[1]), int(match[2])) for name in shapes if (match := _RESNET.fullmatch(name))]
    num_blocks = max(1, len({block for block, _ in resnets}))
    widths = [_size(shapes, f"decoder.up_blocks.{block}.resnets.0.conv1.weight", 0) for block in range(num_blocks)]
    if z_dim not in _PUBLISHED:
        allowed = " or ".join(str(length) for length in _PUBLISHED)
        raise InvalidInput("weights z_dim", z_dim, f"{allowed} for a file without a config.json beside it")
    mean, std = _PUBLISHED[z_dim]
    base_dim = min(widths)
    is_residual = any(".upsampler." in name for name in shapes)
    return parse_wan_config(
        {
            "base_dim": base_dim,
            "z_dim": z_dim,
            "dim_mult": [width // base_dim for width in reversed(widths)],
            "num_res_blocks": len(resnets) // num_blocks - 1,
            "temperal_downsample": [_doubles_time(shapes, block) for block in reversed(range(num_blocks - 1))],
            "is_residual": is_residual,
            "patch_size": 2 if is_residual and out_channels == 12 else 1,
            "out_channels": out_channels,
            "latents_mean": mean,
            "latents_std": std,
        },
        source="weights",
    )


def _shapes(header: Mapping[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    """By diffusers' names."""
    bare = bare_names(header)
    if not any(name.startswith("decoder.") for name in bare.values()):
        raise InvalidInput("weights", f"tensors {first_parts(header)}", "decoder.*, as in a Wan VAE")
    renamed = rename_wan(bare.values())
    return {renamed[name]: header[stored_name].shape for stored_name, name in bare.items()}


def _rename(name: str, resamplers: Collection[str], flat: list[int]) -> str:
    for old, new in _PREFIXES.items():
        if name.startswith(old):
            return new + _rename_part(name.removeprefix(old))
    if match := _NESTED.fullmatch(name):
        block, index, part = int(match[1]), int(match[2]), match[3]
        if f"{block}.upsamples.{index}" in resamplers:
            return f"decoder.up_blocks.{block}.upsampler.{part}"
    elif match := _FLAT.fullmatch(name):
        index, part = int(match[1]), match[2]
        before = [resampler for resampler in flat if resampler < index]
        block = len(before)
        if index in flat:
            return f"decoder.up_blocks.{block}.upsamplers.0.{part}"
        index -= before[-1] + 1 if before else 0
    else:
        return name
    return f"decoder.up_blocks.{block}.resnets.{index}.{_rename_part(part)}"


def _rename_part(part: str) -> str:
    for old, new in _BLOCK_PARTS.items():
        if part.startswith(old):
            return new + part.removeprefix(old)
    return part


def _doubles_time(shapes: Mapping[str, tuple[int, ...]], block: int) -> bool:
    block_name = f"decoder.up_blocks.{block}"
    return any(f"{block_name}.{part}.time_conv.weight" in shapes for part in ("upsampler", "upsamplers.0"))


def _size(shapes: Mapping[str, tuple[int, ...]], name: str, axis: int) -> int:
    shape = shapes.get(name, ())
    if len(shape) != 5 or not shape[axis]:
        raise InvalidInput(f"weights {name}", f"shape {list(shape)}", "there with 5 dimensions, as in a Wan VAE")
    return shape[axis]
