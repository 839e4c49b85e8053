"""The decoders of `plugin`. Imports torch: for the worker and the baseline's process."""

from __future__ import annotations

import math
import os
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from bench import answer
from bench.plugin import FREE_SPEC, STAND_IN_SPEC
from framehaul_pipeline.decoders.base import Decoder, State
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.spec import DecoderSpec, Geometry

STAND_IN_CHANNELS: Final = 96
STAND_IN_CONVOLUTIONS: Final = 51
"""2 x 9 x 96^2 x 480 x 832 operations each: 3.4 TFLOP a frame, as 275 TFLOP for Wan's 81 frames of that size."""
_NUM_WEIGHTS: Final = 6


class _Stateless:
    """A decoder whose latents don't depend on each other."""

    spec: DecoderSpec
    dtype: torch.dtype

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """Nothing to remember."""
        del geometry, num_latents, first_latent
        return []

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """Take any number of latents."""
        del index, ended
        return max(0, min(available, wanted))

    def flush(self, state: State) -> Tensor | None:
        """Nothing is held back."""
        del state
        return None

    def state_bytes(self, geometry: Geometry) -> int:
        """Nothing is kept."""
        del geometry
        return 0

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """Not said: nothing is measured near the device's limits."""
        del geometry, num_latents
        return 0


class FreeDecoder(_Stateless):
    """Every frame is one grey, the first value of its latent."""

    spec = FREE_SPEC

    def __init__(self, dtype: torch.dtype) -> None:
        """Give frames in `dtype`."""
        self.dtype = dtype

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to `[4 T, 3, 8 h, 8 w]`, a view of `T` values."""
        count, _, height, width = latents.shape
        spec = self.spec
        levels = latents[:, 0, 0, 0].repeat_interleave(spec.temporal_factor).view(-1, 1, 1, 1)
        size = (count * spec.temporal_factor, 3, height * spec.spatial_factor, width * spec.spatial_factor)
        return levels.expand(size), state


class StandInDecoder(_Stateless):
    """A stand-in for a slow decoder: a chain of 3x3 convolutions at full frame size, random weights.

    It has the arithmetic of a Wan-size decoder and none of its structure: its kernels run closer to the hardware's peak
    than a real decoder's, and it keeps no state.
    """

    spec = STAND_IN_SPEC

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Draw the weights; FRAMEHAUL_BENCH_CONVOLUTIONS shortens the chain for a try on the CPU."""
        self.dtype = dtype
        self._count = int(os.environ.get("FRAMEHAUL_BENCH_CONVOLUTIONS", STAND_IN_CONVOLUTIONS))
        generator = torch.Generator().manual_seed(0)

        def draw(outputs: int, inputs: int) -> Tensor:
            weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * math.sqrt(2.0 / (9 * inputs))
            return weight.to(device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)

        self._enter = draw(STAND_IN_CHANNELS, self.spec.channels)
        self._weights = [draw(STAND_IN_CHANNELS, STAND_IN_CHANNELS) for _ in range(_NUM_WEIGHTS)]
        self._leave = draw(3, STAND_IN_CHANNELS)

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to `[4 T, 3, 8 h, 8 w]`."""
        x = functional.conv2d(latents.contiguous(memory_format=torch.channels_last), self._enter, padding=1)
        x = functional.interpolate(x, scale_factor=self.spec.spatial_factor, mode="nearest")
        x = x.repeat_interleave(self.spec.temporal_factor, dim=0).contiguous(memory_format=torch.channels_last)
        for index in range(self._count):
            x = functional.relu_(functional.conv2d(x, self._weights[index % _NUM_WEIGHTS], padding=1))
        frames: Tensor = functional.conv2d(x, self._leave, padding=1).tanh()
        return frames, state


def load(model: Model, device: torch.device, plans: PlanTable | None) -> Decoder:
    """Load one of them."""
    del plans
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    if model.spec == STAND_IN_SPEC:
        return StandInDecoder(device, dtype)
    answer.start()
    return FreeDecoder(dtype)
