"""One session as its user sees it: a context manager and an iterator of frames. Runs on one event loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Self

from framehaul_client.core.frames import FrameBatch, Pixels
from framehaul_client.core.opening import Opened
from framehaul_client.core.session_config import SessionConfig, check_layout
from framehaul_client.core.statistics import SessionStatistics
from framehaul_client.errors import InvalidLatents
from framehaul_client.source.history import LatentHistory
from framehaul_client.source.iterators import Latents
from framehaul_client.transport.exchange import Exchange
from framehaul_client.transport.queueing import QueuePosition
from framehaul_client.transport.servers import Servers


class Session:
    """Latents go out and frames come in, at the same time; made by `FrameClient.session`.

    Entering it takes the first latents, whose shape and dtype are the session's, and waits for the server's answer,
    in its queue if need be. Leaving it cancels what isn't finished. Iterate over it once, from one task:

        async with client.session(latents) as session:
            async for frame in session:  # [H, W, 3] uint8
                ...

    A frame counts as consumed, and makes room for another, when the next one is asked for.
    """

    def __init__(
        self,
        servers: Servers,
        latents: Latents,
        config: SessionConfig,
        on_close: Callable[[Session], None],
    ) -> None:
        """Prepare; nothing is sent before the session is entered."""
        self._servers = servers
        self._latents = latents
        self._config = config
        self._on_close = on_close
        self.statistics = SessionStatistics()
        """Counters, up to date at any time."""
        self._queue = QueuePosition(self.statistics, config.on_queued)
        self._history: LatentHistory | None = None
        self._exchange: Exchange | None = None
        self._batch: FrameBatch | None = None  # the message whose frames are handed out one by one
        self._offset = 0  # of the next frame in it
        self._num_handed = 0  # frames the caller works on
        self._closed = False

    async def __aenter__(self) -> Self:
        """Open the session.

        Raises:
            FramehaulError: the server refused it or can't be reached; the class tells which.
            InvalidLatents: there are no latents, or none that can be sent.

        Cancellation: closes the session.
        """
        if self._history is not None:
            raise RuntimeError("this session was entered before: make a new one")
        self._history = history = LatentHistory(self._latents, self._config.dtype, check_layout(self._config.layout))
        exchange = Exchange(history, self._config, self.statistics, self._servers, self._queue)
        try:
            started_s = time.perf_counter()
            if await history.next() is None:
                raise InvalidLatents("no latents: a session needs at least one")
            self.statistics.produce_s += time.perf_counter() - started_s
            await exchange.open()
        except BaseException:
            await self.aclose()
            raise
        self._exchange = exchange
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session; see `aclose`."""
        await self.aclose()

    def __del__(self) -> None:
        """Warn when the session was left open."""
        if self.is_open:
            warnings.warn(
                f"session at {self._servers.target} was never closed: use `async with`", ResourceWarning, stacklevel=2
            )

    def __aiter__(self) -> AsyncIterator[Pixels]:
        """Iterate over frames, read-only arrays in the shape and type that `PixelFormat` says."""
        return self

    async def __anext__(self) -> Pixels:
        """Return the next frame.

        Raises:
            FramehaulError: the session failed; frames that had come before were handed out first.

        Cancellation: no frame is lost; the session goes on until it is left.
        """
        if self._batch is None or self._offset == len(self._batch):
            self._batch, self._offset = await self._next_message(), 0
            if self._batch is None:
                raise StopAsyncIteration
        else:
            self._consume_handed()
        frame: Pixels = self._batch.frames[self._offset]
        self._offset += 1
        self._num_handed = 1
        return frame

    async def next_batch(self) -> FrameBatch | None:
        """Return the frames of the next message, or None after the last one.

        Raises:
            FramehaulError: the session failed; frames that had come before were handed out first.

        Cancellation: no frame is lost; the session goes on until it is left.
        """
        if self._batch is not None and self._offset < len(self._batch):
            self._consume_handed()
            batch = FrameBatch(self._batch.first_frame + self._offset, self._batch.frames[self._offset :])
        else:
            whole = await self._next_message()
            if whole is None:
                return None
            batch = whole
        self._batch = None
        self._num_handed = len(batch)
        return batch

    def batches(self) -> AsyncIterator[FrameBatch]:
        """Iterate over whole messages of frames, as `next_batch` returns them; less work than frame by frame."""
        return _Batches(self)

    async def aclose(self) -> None:
        """Cancel what isn't finished and close the latents' iterator, if it is a generator; closing twice is fine.

        Cancellation: the call is cancelled all the same.
        """
        if self._closed:
            return
        self._closed = True
        self._batch = None
        try:
            if self._exchange is not None:
                await self._exchange.aclose()
        finally:
            if self._history is not None:
                await self._history.aclose()
            self._on_close(self)

    @property
    def is_open(self) -> bool:
        """Whether it was entered and not yet left."""
        return self._exchange is not None and not self._closed

    @property
    def opened(self) -> Opened:
        """What the server agreed to."""
        return self._running.opened

    @property
    def num_frames(self) -> int | None:
        """How many frames will come in all; None while the number of latents isn't known."""
        return self._running.num_frames

    @property
    def queue_position(self) -> int | None:
        """Position in the server's queue, 1 is next; None when it doesn't wait there.

        It may wait while it is entered, and again when a lost session has to be opened anew.
        """
        return self._queue.position

    @property
    def drain_grace_s(self) -> float | None:
        """How long the server said it would still run when it announced its stop, in seconds; None if it didn't."""
        return self._running.drain_grace_s

    @property
    def _running(self) -> Exchange:
        if self._exchange is None or self._closed:
            raise RuntimeError("the session is not open: use it inside `async with`")
        return self._exchange

    async def _next_message(self) -> FrameBatch | None:
        exchange = self._running
        self._consume_handed()
        return await exchange.next_batch()

    def _consume_handed(self) -> None:
        num_handed, self._num_handed = self._num_handed, 0
        self._running.consume(num_handed)


class _Batches:
    """Not a generator, since one that is left midway lives on until it is collected."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __aiter__(self) -> AsyncIterator[FrameBatch]:
        return self

    async def __anext__(self) -> FrameBatch:
        batch = await self._session.next_batch()
        if batch is None:
            raise StopAsyncIteration
        return batch
