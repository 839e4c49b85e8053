"""Run by tests with TRITON_INTERPRET=1: the library's decoders by our engine on the CPU; prints differences."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLHunyuanVideo
from torch import Tensor

from framehaul_pipeline.decoders.engine.convolution import Convolutions
from framehaul_pipeline.decoders.engine.weights import Dtypes

PICTURES: tuple[dict[str, Any], ...] = (
    {"latent_channels": 4, "block_out_channels": (8, 24), "norm_num_groups": 4, "layers_per_block": 2},
    {"latent_channels": 16, "block_out_channels": (8, 8, 16), "norm_num_groups": 8, "use_post_quant_conv": False},
    {"latent_channels": 4, "block_out_channels": (16,), "norm_num_groups": 8, "mid_block_add_attention": False},
)
CLIPS: tuple[tuple[int, dict[str, Any]], ...] = (
    (3, {"latent_channels": 16, "block_out_channels": (8, 16, 8, 24), "norm_num_groups": 4, "layers_per_block": 1}),
    (1, {"latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}),
)
"""With how many latents are decoded."""


@cache
def interpreted() -> dict[str, list[float]]:
    """What this program prints, of pictures and of clips."""
    run = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = [float(line) for line in run.stdout.splitlines()]
    return {"pictures": found[: len(PICTURES)], "clips": found[len(PICTURES) :]}


@torch.inference_mode()
def tell(vae: Any, latents: Tensor, mean: float, expected: Callable[[Any, Tensor], Tensor]) -> None:
    """Print the largest difference to what is expected in float64, with a mean far from zero before the norms."""
    from framehaul_pipeline.decoders.diffusers_engine import DiffusersEngine

    vae.eval()
    bias = getattr(vae.decoder.conv_in, "conv", vae.decoder.conv_in).bias
    bias += mean
    for parameter in vae.decoder.parameters():
        if parameter.dim() == 1:
            parameter += torch.randn(parameter.shape) / 8
    engine = DiffusersEngine(vae, Dtypes(torch.float32, torch.float32), Convolutions(torch.device("cpu"), None))
    frames = engine.decode(latents)
    sys.stdout.write(f"{(frames - expected(vae.double(), latents.double())).abs().max().item()}\n")


def main() -> None:
    """Print the difference of each kind."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    for kind in PICTURES:
        blocks = len(kind["block_out_channels"])
        names = {"down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks}
        latents = torch.randn(2, kind["latent_channels"], 3, 5)
        tell(AutoencoderKL(**kind, **names), latents, 30, lambda vae, z: vae.decode(z).sample)
    torch.manual_seed(3)
    for count, kind in CLIPS:
        vae = AutoencoderKLHunyuanVideo(**kind)
        latents = torch.randn(count, kind["latent_channels"], 1, 3)
        tell(vae, latents, 2, lambda vae, z: vae.decode(z.transpose(0, 1)[None]).sample[0].transpose(0, 1))


if __name__ == "__main__":
    main()
