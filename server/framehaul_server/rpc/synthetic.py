"""Latents made from a seed, for load tests: full-size frames come out, and nothing has to be sent in.

Runs on the event loop, so a latent must be cheap: noise is drawn once a seed, and each latent is that noise shifted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from framehaul.formats import LatentDtype
from framehaul_pipeline.errors import Overloaded
from framehaul_pipeline.spec import Geometry

_MAX_WAITING_CLIPS: Final = 1024
_SHIFT: Final = 7919
"""Elements between latents: a prime, so that no two latents of a clip are equal before all shifts were used."""


class SyntheticLatents:
    """The latents of one seed: the same bytes for the same seed, geometry, dtype and index, always."""

    def __init__(self, seed: int, geometry: Geometry, dtype: LatentDtype) -> None:
        """Draw the noise: standard normal, what a normalised latent looks like."""
        self.seed = seed
        count = geometry.channels * geometry.height * geometry.width
        noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(count, dtype=np.float32)
        self._noise = _elements(noise, dtype)

    def latent(self, index: int) -> memoryview:
        """The bytes of latent `index`, `[channels, height, width]`."""
        shifted = np.roll(self._noise, index * _SHIFT % self._noise.size)
        return shifted.data.cast("B").toreadonly()


def _elements(noise: NDArray[np.float32], dtype: LatentDtype) -> NDArray[np.float16 | np.float32 | np.uint16]:
    if dtype is LatentDtype.FLOAT32:
        return noise
    if dtype is LatentDtype.FLOAT16:
        return noise.astype(np.float16)
    return (noise.view(np.uint32) >> 16).astype(np.uint16)


class SyntheticFeed:
    """Makes a session's synthetic latents one at a time, when there is room for them."""

    def __init__(self, geometry: Geometry, dtype: LatentDtype) -> None:
        """Make latents of one size for the whole session."""
        self._geometry = geometry
        self._dtype = dtype
        self._waiting: deque[tuple[int, int]] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._num_made = 0
        self._latents = SyntheticLatents(0, geometry, dtype)

    def add(self, seed: int, num_latents: int) -> None:
        """Append a clip.

        Raises:
            Overloaded: too many clips wait already.
        """
        if len(self._waiting) >= _MAX_WAITING_CLIPS:
            raise Overloaded(f"synthetic: {_MAX_WAITING_CLIPS} clips of this session wait already", retry_after_s=1.0)
        self._waiting.append((seed, num_latents))
        self._changed.set()

    def end(self) -> None:
        """No more clips."""
        self._ended = True
        self._changed.set()

    async def run(self, push: Callable[[memoryview], None], room: Callable[[], Awaitable[None]]) -> None:
        """Make latents until the end: `push` takes one, `room` waits until one more may be made.

        Cancellation: latents not made yet are dropped.
        """
        while not (self._ended and not self._waiting):
            if not self._waiting:
                self._changed.clear()
                await self._changed.wait()
                continue
            seed, num_latents = self._waiting.popleft()
            if seed != self._latents.seed:
                self._latents = SyntheticLatents(seed, self._geometry, self._dtype)
            for _ in range(num_latents):
                await room()
                push(self._latents.latent(self._num_made))
                self._num_made += 1
                await asyncio.sleep(0)  # others' turn
