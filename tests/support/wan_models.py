"""Small Wan VAEs with random weights, as diffusers builds them: what our own reading and decoding is held against."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage, AutoencoderKLWan
from torch import Tensor

from framehaul_pipeline.decoders.wan.net import WanNet
from framehaul_pipeline.models.wan import parse_wan_config

WAN_2_1: Final[dict[str, Any]] = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
WAN_2_2: Final[dict[str, Any]] = {
    "base_dim": 8,
    "decoder_base_dim": 16,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "latents_mean": [0.25] * 48,
    "latents_std": [0.5] * 48,
}
SHALLOW: Final[dict[str, Any]] = {
    "base_dim": 4,
    "z_dim": 2,
    "dim_mult": [1, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True],
    "latents_mean": [0.0, 0.0],
    "latents_std": [1.0, 1.0],
}


_TOY: Final[dict[str, Any]] = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "latents_mean": [0.1] * 4,
    "latents_std": [2.0] * 4,
}
_TOYS: Final[dict[str, tuple[type[Any], dict[str, Any]]]] = {
    "wan2.1": (AutoencoderKLWan, _TOY),
    "wan2.2": (
        AutoencoderKLWan,
        {**_TOY, "decoder_base_dim": 8, "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12},
    ),
    "wan2.1-2x": (AutoencoderKLWan, {**_TOY, "out_channels": 12}),
    "qwen-image": (AutoencoderKLQwenImage, _TOY),
}
NAMES: Final = tuple(_TOYS)


def wan(config: dict[str, Any], *, seed: int = 0) -> Any:
    """A VAE with random weights and random, not neutral, norms; in evaluation mode."""
    return _filled(AutoencoderKLWan(**config), seed)


def qwen_image(config: dict[str, Any], *, seed: int = 0) -> Any:
    """The same network under QwenImage's name."""
    return _filled(AutoencoderKLQwenImage(**config), seed)


def build_vae(name: str) -> Any:
    """One of `NAMES`, which decode in no time."""
    kind, config = _TOYS[name]
    return _filled(kind(**config), 7)


def decoder_tensors(vae: Any) -> dict[str, Tensor]:
    """What a decoder needs of the VAE's tensors."""
    return {
        name: tensor for name, tensor in vae.state_dict().items() if name.startswith(("decoder.", "post_quant_conv."))
    }


def decode_whole(vae: Any, latents: Tensor) -> Tensor:
    """The library's decode of a clip: latents `[T, C, h, w]` to frames `[F, 3, H, W]`.

    Twelve channels that the library leaves as they are become pixels as users of such a VAE unpack them.
    """
    decoded: Tensor = vae.decode(latents.transpose(0, 1).unsqueeze(0)).sample
    frames = decoded[0].transpose(0, 1)
    return F.pixel_shuffle(frames, 2) if frames.shape[1] == 12 else frames


def build_net(vae: Any) -> WanNet:
    """Our network with a VAE's weights, strictly."""
    net = WanNet(parse_wan_config(dict(vae.config)))
    net.take(decoder_tensors(vae))
    return net.eval().requires_grad_(False)


def _filled(vae: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in vae.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.0, 0.1, generator=generator)
        else:
            torch.nn.init.kaiming_normal_(parameter, generator=generator)
    return vae.eval().requires_grad_(False)
