"""Small Wan VAEs with random weights, by diffusers, for tests of our decoder."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLQwenImage, AutoencoderKLWan
from torch import Tensor

from framehaul_pipeline.decoders.wan.net import WanNet
from framehaul_pipeline.models.wan import parse_wan_config

COMMON = {
    "z_dim": 4,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "latents_mean": [0.1] * 4,
    "latents_std": [2.0] * 4,
}
CONFIGS = {
    "wan2.1": (AutoencoderKLWan, {"base_dim": 4}),
    "wan2.2": (
        AutoencoderKLWan,
        {
            "base_dim": 4,
            "decoder_base_dim": 8,
            "is_residual": True,
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
        },
    ),
    "qwen-image": (AutoencoderKLQwenImage, {"base_dim": 4}),
}
NAMES = tuple(CONFIGS)


def build_vae(name: str) -> torch.nn.Module:
    """A VAE of the kind, whose norms and biases aren't the trivial ones that a fresh network has."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        kind, config = CONFIGS[name]
        vae: torch.nn.Module = kind(**COMMON, **config).eval().requires_grad_(False)
        for parameter_name, parameter in vae.named_parameters():
            if parameter_name.endswith("gamma"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif parameter_name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return vae


def decode_whole(vae: torch.nn.Module, latents: Tensor) -> Tensor:
    """The library's decode of a clip: latents `[T, C, h, w]` to frames `[F, 3, H, W]`."""
    decoded: Tensor = vae.decode(latents.transpose(0, 1).unsqueeze(0)).sample  # type: ignore[operator]
    return decoded[0].transpose(0, 1)


def build_net(vae: torch.nn.Module) -> WanNet:
    """Our network with a VAE's weights, strictly."""
    net = WanNet(parse_wan_config(dict(vae.config)))  # type: ignore[arg-type]
    decoding = {k: v for k, v in vae.state_dict().items() if k.startswith(("decoder.", "post_quant_conv."))}
    net.load_state_dict(decoding, strict=True)
    return net.eval().requires_grad_(False)
