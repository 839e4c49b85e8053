"""Finds a worker that hangs: one that doesn't answer, or one whose device doesn't finish a chunk or a film's batch.

Runs on the server's event loop, on one timer. Messages that come by themselves can't tell: a worker may rightly be
silent for hours while a decoder waits for more latents, and one whose device hangs still opens sessions. So the worker
is asked four times in each `chunk_timeout_s`; its control thread, which never waits for the device, answers with the
chunk or batch that it has been at for longest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from framehaul_pipeline.link.messages import Alive
from framehaul_pipeline.scheduling.chunk_limits import BatchShape, ChunkLimits, ChunkShape

_PROBES: Final = 4
"""In one `chunk_timeout_s`. More than one, so that a server that was itself stopped for a while asks again first."""


class Watchdog:
    """Watches one worker from `start` to `stop`."""

    def __init__(self, chunk_timeout_s: float, *, probe: Callable[[], None], hung: Callable[[str], None]) -> None:
        """Ask with `probe`, and call `hung` once, with the reason, when the worker must be given up."""
        self._limits = ChunkLimits(chunk_timeout_s)
        self._chunk_timeout_s = chunk_timeout_s
        self._probe = probe
        self._hung = hung
        self._num_unanswered = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._timer = asyncio.get_running_loop().call_later(self._chunk_timeout_s / _PROBES, self._ask)

    def stop(self) -> None:
        """Ask no more; twice is fine."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def published(self, shape: ChunkShape | BatchShape | None, decode_ns: int) -> None:
        """Learn from a chunk that was published, or a batch; None: its session is closed."""
        if shape is not None:
            self._limits.observe(shape, decode_ns)

    def answered(self, alive: Alive, shape: ChunkShape | BatchShape | None) -> None:
        """Judge an answer; `shape` is that of the chunk or batch which it names, None when that isn't known."""
        self._num_unanswered = 0
        if alive.oldest is None:
            return
        oldest = alive.oldest
        busy_s, limit_s = oldest.busy_ns / 1e9, self._limits.limit_s(shape)
        if busy_s > limit_s:
            what = f"chunk of {oldest.num_latents} latents of session {oldest.session}"
            if oldest.num_samples:
                what = f"batch of {oldest.num_samples} samples of query {oldest.session}"
            self._give_up(f"hangs in a {what}: {busy_s:.1f} s, the limit is {limit_s:.1f} s")

    def _ask(self) -> None:
        if self._num_unanswered == _PROBES - 1:
            self._give_up(f"gave no answer for {self._chunk_timeout_s * self._num_unanswered / _PROBES:.1f} s")
            return
        self._num_unanswered += 1
        self.start()
        self._probe()

    def _give_up(self, reason: str) -> None:
        if self._timer is not None:
            self.stop()
            self._hung(reason)
