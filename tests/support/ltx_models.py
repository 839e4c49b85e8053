"""Small LTX VAEs with random weights, one of each published shape, as folders and as the authors' single files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from diffusers import AutoencoderKLLTX2Video, AutoencoderKLLTXVideo
from torch import Tensor

LATENT_CHANNELS: Final = 6
_SMALL: Final[dict[str, Any]] = {
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1, 1, 1, 1, 1),
    "patch_size": 2,
}
_HALVING: Final[dict[str, Any]] = {
    "decoder_block_out_channels": (8, 16, 32),
    "decoder_layers_per_block": (1, 2, 1, 1),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (False, False, False, False),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
}
PUBLISHED: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "0.9.0": (
        AutoencoderKLLTXVideo,
        {"decoder_block_out_channels": (4, 8, 16, 16), "decoder_layers_per_block": (1, 1, 2, 1, 1), "patch_size": 4},
    ),
    "0.9.1": (
        AutoencoderKLLTXVideo,
        {**_HALVING, "timestep_conditioning": True, "decoder_inject_noise": (True, True, True, False)},
    ),
    "0.9.5": (AutoencoderKLLTXVideo, {**_HALVING, "timestep_conditioning": True}),
    "2": (AutoencoderKLLTX2Video, {**_HALVING, "decoder_causal": False}),
    "2.3": (
        AutoencoderKLLTX2Video,
        {
            "decoder_block_out_channels": (8, 16, 16, 32),
            "decoder_layers_per_block": (1, 1, 2, 1, 1),
            "decoder_spatio_temporal_scaling": (True, True, True, True),
            "decoder_inject_noise": (False,) * 5,
            "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
            "upsample_residual": (False,) * 4,
            "upsample_factor": (2, 2, 1, 2),
            "decoder_causal": False,
            "decoder_spatial_padding_mode": "zeros",
        },
    ),
}
"""The library's class and what its config says of a decoder, with fewer layers and channels. Source: the configs in
`scripts/convert_ltx_to_diffusers.py` and `convert_ltx2_to_diffusers.py` of huggingface/diffusers."""
_TOP: Final = {"latents_mean": "mean-of-means", "latents_std": "std-of-means"}


def make(version: str, **changes: Any) -> Any:
    """The library's VAE; what starts as zeros, or as what changes nothing, is random too."""
    torch.manual_seed(7)
    vae_class, config = PUBLISHED[version]
    vae = vae_class(**{**_SMALL, **config, **changes}).eval().requires_grad_(False)
    for name, parameter in vae.named_parameters():
        if "per_channel_scale" in name:
            parameter.normal_()
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    return vae


def original_tensors(vae: Any, *, prefix: str = "vae.") -> dict[str, Tensor]:
    """A decoder under the authors' names, with an encoder's tensor and other statistics beside it."""
    first_unchanged = vae.decoder.up_blocks[0].upsamplers is None
    tensors = {f"{prefix}{_original(name, first_unchanged)}": each.clone() for name, each in _decoders(vae).items()}
    tensors[f"{prefix}encoder.conv_out.conv.weight"] = torch.zeros(2, 4 if first_unchanged else 2048, 1, 1, 1)
    tensors[f"{prefix}per_channel_statistics.channel"] = torch.zeros(LATENT_CHANNELS)
    return tensors


def _decoders(vae: Any) -> Mapping[str, Tensor]:
    return {name: tensor for name, tensor in vae.state_dict().items() if not name.startswith("encoder.")}


def _original(name: str, first_unchanged: bool) -> str:
    if name in _TOP:
        return f"per_channel_statistics.{_TOP[name]}"
    name = re.sub(r"^decoder\.(time_embedder|scale_shift_table)", r"decoder.last_\1", name)
    name = name.replace("decoder.mid_block.", "decoder.up_blocks.-1.")
    if match := re.fullmatch(r"decoder\.up_blocks\.(-?\d+)\.(upsamplers\.0\.|conv_in\.|)(.*)", name):
        number = _number(int(match[1]), match[2], first_unchanged)
        name = f"decoder.up_blocks.{number}.{match[3].replace('resnets.', 'res_blocks.')}"
    return name.replace("norm3.", "norm3.norm.").replace("conv_shortcut.conv.", "conv_shortcut.")


def _number(block: int, part: str, first_unchanged: bool) -> int:
    """Where a part stands in the authors' list."""
    if first_unchanged:
        parts = (
            "-1",
            "0",
            "1upsamplers.0.",
            "1",
            "2conv_in.",
            "2upsamplers.0.",
            "2",
            "3conv_in.",
            "3upsamplers.0.",
            "3",
        )
        return parts.index(f"{block}{part}")
    return 2 * block + 2 - (part == "upsamplers.0.")
