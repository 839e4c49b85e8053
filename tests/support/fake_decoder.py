"""A decoder whose every pixel depends on all latents so far, so that a lost, late or repeated latent shows."""

import msgspec
import torch
from torch import Tensor

from framehaul.formats import LatentDtype, PixelFormat
from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.link.messages import Opening
from framehaul_pipeline.spec import Geometry
from tests.support.fakes import SPEC

FAKE_SPEC = msgspec.structs.replace(SPEC, name="fake", channels=1, temporal_factor=2, first_frames=1)


def fake_opening(**changes: object) -> Opening:
    """Of a session with the smallest latents, with some fields changed."""
    opening = Opening(
        model="fake",
        geometry=Geometry(channels=1, height=1, width=1),
        num_latents=None,
        dtype=LatentDtype.FLOAT32,
        normalized=False,
        pixel_format=PixelFormat.RGB24,
        priority=0,
    )
    return msgspec.structs.replace(opening, **changes)


class FakeDecoder:
    """Latents are whole numbers; frame levels are their running sum modulo 256."""

    spec = FAKE_SPEC
    dtype = torch.float32

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        return [torch.zeros(2)]

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        return min(available, wanted)

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        total, count = state[0].tolist()
        frames = []
        for latent in latents:
            value = latent.flatten()[0].item()
            if value < 0:
                raise RuntimeError("the fake decoder can't take negative latents")
            total += value
            num_frames = 1 if count == 0 else 2
            count += 1
            level = total % 256 / 127.5 - 1.0
            frames += [torch.full((3, 2 * latent.shape[1], 2 * latent.shape[2]), level)] * num_frames
        return torch.stack(frames), [torch.tensor([total, count])]

    def flush(self, state: State) -> Tensor | None:
        return None

    def state_bytes(self, geometry: Geometry) -> int:
        return 8

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        return 0


def expected_levels(values: list[int]) -> list[int]:
    """Grey level of each frame for these latents."""
    levels: list[int] = []
    total = 0
    for index, value in enumerate(values):
        total += value
        levels += [total % 256] * (1 if index == 0 else 2)
    return levels
