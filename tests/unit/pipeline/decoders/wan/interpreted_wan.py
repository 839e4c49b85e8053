"""Run by tests with TRITON_INTERPRET=1: Wan's engine on the CPU against the library, in chunks; prints differences."""

from __future__ import annotations

import sys

import torch

from framehaul_pipeline.decoders.engine.convolution import Convolutions
from framehaul_pipeline.decoders.engine.weights import Dtypes
from framehaul_pipeline.decoders.wan.engine import WanEngine
from framehaul_pipeline.models.wan import wan_state_shapes
from tests.support.wan_models import build_net, build_vae, decode_whole

CHUNKS = ([1, 2, 1], [1, 3])


def main() -> None:
    """Print the largest difference of each chunking, a line for each VAE that is named."""
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        sys.stdout.write(" ".join(f"{each}" for each in differences(name)) + "\n")


def differences(name: str) -> list[float]:
    """Of each chunking of a VAE."""
    vae, found = build_vae(name), []
    net = build_net(vae)
    engine = WanEngine(net, Dtypes(torch.float32, torch.float32), Convolutions(torch.device("cpu"), None))
    latents = torch.randn(4, 4, 1, 2, generator=torch.Generator().manual_seed(1))
    whole = decode_whole(vae, latents)
    shapes = wan_state_shapes(net.config, 1, 2)
    for chunks in CHUNKS:
        state = torch.zeros(sum(2 * c * h * w for c, h, w in shapes))
        engine.set_state(state)
        parts, start = [], 0
        for length in chunks:
            parts.append(engine.decode(latents[start : start + length].contiguous(), first=start == 0))
            start += length
        found.append((torch.cat(parts) - whole).abs().max().item())
    return found


if __name__ == "__main__":
    main()
