"""The decoder of `paced`, in the worker."""

import time

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.spec import Geometry
from tests.support.paced import SPEC


class PacedDecoder:
    """Grey frames."""

    spec = SPEC
    dtype = torch.float32

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        return []

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        return max(0, min(available, wanted))

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        time.sleep(float(latents[:, 0, 0, 0].sum()) / 1000)
        count, _, height, width = latents.shape
        spec = self.spec
        size = (count * spec.temporal_factor, 3, height * spec.spatial_factor, width * spec.spatial_factor)
        return torch.zeros(1, 1, 1, 1).expand(size), state

    def flush(self, state: State) -> Tensor | None:
        return None

    def state_bytes(self, geometry: Geometry) -> int:
        return 0

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        return 0


def load(model: Model, device: torch.device, plans: PlanTable | None) -> PacedDecoder:
    return PacedDecoder()
