"""Drives a sink on a thread of its own, so that encoding, receiving and sending run side by side.

The event loop hands over frames through a bounded queue. The sink belongs to the thread from start to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from framehaul_client.core.events import Event, OnEvent
from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.errors import OutputError
from framehaul_client.sinks.base import Sink

_LOG: Final = logging.getLogger(__name__)
_MAX_PENDING: Final = 2  # messages: one is encoded while the next one waits
_ABORT_TIMEOUT_S: Final = 10.0


class Encoder:
    """Owner of the thread, which finishes or aborts every sink that it started.

    Attributes:
        busy_s: how long the sink worked.
        kept: the unfinished output after an abort, if any.
    """

    def __init__(
        self,
        sink: Sink,
        layout: FrameLayout,
        num_frames: int | None = None,
        *,
        max_pending: int = _MAX_PENDING,
        room: Callable[[FrameBatch], bool] | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """Start the thread; needs a running event loop.

        Args:
            sink: where the frames go.
            layout: what they look like.
            num_frames: of the clip; None while unknown.
            max_pending: so many batches may wait for the thread.
            room: says whether the sink takes a batch yet; asked again when it has taken another one.
            on_event: called there with each batch that was encoded, and with the end.
        """
        self.busy_s = 0.0
        self.kept: Path | None = None
        self._sink = sink
        self._layout = layout
        self._num_frames = num_frames
        self._max_pending = max_pending
        self._room = room
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[FrameBatch | None] = queue.SimpleQueue()
        self._num_pending = 0  # batches given and not yet taken by the sink
        self._changed = asyncio.Event()
        self._ended = False  # as far as the event loop knows
        self._finished = False  # the output is whole; the thread's
        self._aborted = threading.Event()
        self._error: OutputError | None = None
        # A daemon, since a write to a pipe that nobody reads can't be interrupted and must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="framehaul-encoder", daemon=True)
        self._thread.start()

    async def put(self, batch: FrameBatch) -> None:
        """Hand over frames as soon as the queue has room.

        Raises:
            OutputError: the sink failed, with these frames or with earlier ones.

        Cancellation: the frames are not handed over.
        """
        while not self._ended and not self._has_room(batch):
            self._changed.clear()
            await self._changed.wait()
        if self._ended:
            raise self._error or OutputError("the output was closed")
        self._num_pending += 1
        self._queue.put(batch)

    async def finish(self) -> None:
        """Wait until everything is written and the output has its name.

        Raises:
            OutputError: that failed.

        Cancellation: the output is completed all the same, unless `aclose` comes first.
        """
        self._queue.put(None)
        await self._wait_ended()
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        """Let the sink write what it was given, abort it if it isn't finished, end the thread; twice is fine.

        Cancellation: the thread ends by itself.
        """
        self._aborted.set()
        self._queue.put(None)
        try:
            async with asyncio.timeout(_ABORT_TIMEOUT_S):
                await self._wait_ended()
        except TimeoutError:
            _LOG.warning("the output still blocks after %g s: leaving it", _ABORT_TIMEOUT_S)
            return
        self._thread.join()

    def _has_room(self, batch: FrameBatch) -> bool:
        return self._num_pending < self._max_pending and (self._room is None or self._room(batch))

    async def _wait_ended(self) -> None:
        while not self._ended:
            self._changed.clear()
            await self._changed.wait()

    def _run(self) -> None:
        """Run on the thread."""
        try:
            self._work()
        except OutputError as error:
            self._error = error
        except Exception as error:
            _LOG.debug("the sink failed", exc_info=True)
            self._error = OutputError(f"the encoder failed: {error}")
            self._error.__cause__ = error
        if not self._finished:
            self.kept = self._sink.abort()
        self._loop.call_soon_threadsafe(self._end)

    def _work(self) -> None:
        with self._busy("start"):
            self._sink.start(self._layout, self._num_frames)
        while (batch := self._queue.get()) is not None:
            with self._busy("encode", batch.first_frame, len(batch)):
                self._sink.write(batch)
            batch = None  # frees its memory before the next one comes
            self._loop.call_soon_threadsafe(self._take)
        if not self._aborted.is_set():
            with self._busy("finish"):
                self._sink.finish()
            self._finished = True

    @contextlib.contextmanager
    def _busy(self, name: str, first_frame: int = 0, num_frames: int = 0) -> Iterator[None]:
        start_ns = time.monotonic_ns()
        try:
            yield
        finally:
            end_ns = time.monotonic_ns()
            self.busy_s += (end_ns - start_ns) / 1e9
            if self._on_event is not None:
                event = Event(name, start_ns, end_ns, first_frame, num_frames)
                self._loop.call_soon_threadsafe(self._on_event, event)

    def _take(self) -> None:
        """Run on the event loop: the sink took a batch."""
        self._num_pending -= 1
        self._changed.set()

    def _end(self) -> None:
        """Run on the event loop: the thread is done."""
        self._ended = True
        self._changed.set()
