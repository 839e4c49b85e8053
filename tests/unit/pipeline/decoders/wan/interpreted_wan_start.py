"""Run by tests with TRITON_INTERPRET=1: Wan's engine on the CPU, started in the middle of a clip."""

from __future__ import annotations

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.engine.convolution import Convolutions
from framehaul_pipeline.decoders.engine.weights import Dtypes
from framehaul_pipeline.decoders.wan.decoder import WanDecoder
from framehaul_pipeline.decoders.wan.engine import WanEngine
from framehaul_pipeline.decoders.wan.net import WanNet
from framehaul_pipeline.models.wan import parse_wan_config, wan_spec
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import check_starts_anywhere

CONFIG = parse_wan_config(
    {
        "base_dim": 4,
        "z_dim": 2,
        "dim_mult": [1, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True],
        "is_residual": True,
        "patch_size": 2,
        "out_channels": 12,
        "latents_mean": [0.0, 0.0],
        "latents_std": [1.0, 1.0],
    }
)
CHUNKS = (1, 4, 2, 4, 4, 4, 4, 4, 2)


class InterpretedWanDecoder(WanDecoder):
    """`CudaWanDecoder` without graphs, in float32: the interpreter is exact enough to compare bits in any dtype."""

    dtype = torch.float32

    def __init__(self) -> None:
        cpu = torch.device("cpu")
        super().__init__(wan_spec("wan2.2", CONFIG), CONFIG, cpu)
        net = WanNet(CONFIG).requires_grad_(False).eval()
        self._engine = WanEngine(net, Dtypes(self.dtype, self.dtype), Convolutions(cpu, None))

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        histories, begun = state
        self._engine.set_state(histories)
        return self._engine.decode(latents.contiguous(), first=begun.numel() == 0), [histories, histories[:1]]

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        return 0


def main() -> None:
    """Raise unless each start gives the whole decode's frames."""
    torch.manual_seed(1)
    latents = torch.randn(sum(CHUNKS), CONFIG.z_dim, 1, 1)
    check_starts_anywhere(InterpretedWanDecoder(), latents, CHUNKS)


if __name__ == "__main__":
    main()
