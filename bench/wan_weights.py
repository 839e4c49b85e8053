"""A folder as a published Wan VAE comes in, with random weights: no weights can be fetched where this is measured.

`python -m bench.wan_weights OUT [--model wan2.1] [--toy]` writes OUT/config.json and
OUT/diffusion_pytorch_model.safetensors in bfloat16. PyTorch's own initialisation serves: every convolution follows an
RMS norm, so that frames come out with a standard deviation of about 0.3 and hardly a value is clamped; a test holds
that. Imports torch and diffusers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from diffusers import AutoencoderKLWan

_SEED: Final = 20260401
_WAN22_CHANNELS: Final = 48

CONFIGS: Final = MappingProxyType(
    {
        "wan2.1": {},  # the class's defaults
        "wan2.2": {
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": _WAN22_CHANNELS,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            # The published ones are left out: what is measured gets latents in the decoder's own scale.
            "latents_mean": [0.0] * _WAN22_CHANNELS,
            "latents_std": [1.0] * _WAN22_CHANNELS,
        },
    }
)
"""What the published configurations say beyond the defaults of diffusers' class."""

_TOY: Final = MappingProxyType(
    {"wan2.1": {"base_dim": 16}, "wan2.2": {"base_dim": 16, "decoder_base_dim": 16, "num_res_blocks": 1}}
)


def make_vae(model: str, *, toy: bool) -> AutoencoderKLWan:
    """The model in float32 with random weights, the same in every run.

    Args:
        model: a key of `CONFIGS`.
        toy: as narrow as a try on a CPU wants it.
    """
    config: dict[str, Any] = {**CONFIGS[model], **(_TOY[model] if toy else {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return AutoencoderKLWan(**config)


def write_weights(folder: Path, model: str, *, toy: bool) -> None:
    """Write the folder; see `make_vae`."""
    make_vae(model, toy=toy).to(torch.bfloat16).save_pretrained(folder)


def main() -> None:
    """Write one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="wan2.1", choices=tuple(CONFIGS))
    parser.add_argument("--toy", action="store_true", help="a narrow model, for a try on a CPU")
    given = parser.parse_args()
    write_weights(given.out, given.model, toy=given.toy)


if __name__ == "__main__":
    main()
