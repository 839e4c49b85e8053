"""Run by tests with TRITON_INTERPRET=1: AutoencoderKL's engine on the CPU against the library; prints differences."""

from __future__ import annotations

import sys

import torch
from diffusers import AutoencoderKL

from framehaul_pipeline.decoders.autoencoder_kl_engine import AutoencoderKLEngine
from framehaul_pipeline.decoders.engine.convolution import Convolutions
from framehaul_pipeline.decoders.engine.weights import Dtypes

KINDS = (
    {"latent_channels": 4, "block_out_channels": (8, 24), "norm_num_groups": 4, "layers_per_block": 2},
    {"latent_channels": 16, "block_out_channels": (8, 8, 16), "norm_num_groups": 8, "use_post_quant_conv": False},
    {"latent_channels": 4, "block_out_channels": (16,), "norm_num_groups": 8, "mid_block_add_attention": False},
)


@torch.inference_mode()
def main() -> None:
    """Print the largest difference of each kind, with a mean far from zero before the norms."""
    torch.set_num_threads(1)
    for kind in KINDS:
        torch.manual_seed(3)
        blocks = len(kind["block_out_channels"])  # type: ignore[arg-type]
        names = {"down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks}
        vae = AutoencoderKL(**kind, **names).eval()
        vae.decoder.conv_in.bias += 30
        for parameter in vae.decoder.parameters():
            if parameter.dim() == 1:
                parameter += torch.randn(parameter.shape) / 8
        engine = AutoencoderKLEngine(vae, Dtypes(torch.float32, torch.float32), Convolutions(torch.device("cpu"), None))
        latents = torch.randn(2, vae.config.latent_channels, 3, 5)
        difference = engine.decode(latents) - vae.decode(latents).sample
        sys.stdout.write(f"{difference.abs().max().item()}\n")


if __name__ == "__main__":
    main()
