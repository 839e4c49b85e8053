"""What happens on the wire of one session: three tasks share the call.

One reads; one sends latents as long as the server grants room; one sends acknowledgements. The caller's own task takes
the frames. What each may do is decided in `reassembly`, `window` and `credit`; here is only the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import crc32c
import numpy as np

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.config import SessionConfig
from framehaul_client.credit import LatentCredit
from framehaul_client.errors import DataLoss, FramehaulError, InvalidLatents, ProtocolError
from framehaul_client.frames import FrameBatch
from framehaul_client.latents import LatentArray, LatentFormat, as_block
from framehaul_client.opening import Opened, open_request, read_opened
from framehaul_client.reassembly import Reassembly
from framehaul_client.source import LatentSource
from framehaul_client.statistics import SessionStatistics
from framehaul_client.stream import Stream, StreamClosed
from framehaul_client.window import Acknowledgement, FrameWindow

_LOG: Final = logging.getLogger(__name__)
_END_TIMEOUT_S: Final = 1.0
_MESSAGE_BYTES: Final = 1 << 20  # latents in one message, unless a single one is larger


class Exchange:
    """Owner of a session's call and of the tasks that use it."""

    def __init__(self, source: LatentSource, config: SessionConfig, statistics: SessionStatistics) -> None:
        """Prepare an exchange of the latents of `source`; the caller closes the source."""
        self._source = source
        self._config = config
        self._statistics = statistics
        self._credit = LatentCredit()
        self._room = asyncio.Event()  # the credit may have grown
        self._batches: deque[FrameBatch] = deque()  # received, not yet handed out: the window bounds it
        self._changed = asyncio.Event()  # frames came, or the session ended
        self._acknowledgement: Acknowledgement | None = None  # the newest one that isn't sent; it covers older ones
        self._acknowledge = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._latents_ended = False
        self._finished = False  # Done has come, and all frames before it
        self._error: Exception | None = None
        self._started_s = 0.0
        self.queue_position: int | None = None
        self.drain_grace_s: float | None = None
        self._stream: Stream
        self._opened: Opened
        self._reassembly: Reassembly
        self._window: FrameWindow

    @property
    def opened(self) -> Opened:
        """What the server agreed to."""
        return self._opened

    async def open(self, stream: Stream, first_block: LatentArray, latents: LatentFormat) -> None:
        """Open the session on `stream`, which belongs to this object from now on, and start the tasks.

        Raises:
            FramehaulError: the server refused the session or can't be reached.

        Cancellation: the call is cancelled when this object is closed.
        """
        self._stream = stream
        self._started_s = time.perf_counter()
        try:
            with contextlib.suppress(StreamClosed):  # receiving tells why
                await stream.send(open_request(self._config, latents))
            answer = await stream.receive()
            if answer is None or not answer.header.HasField("opened"):
                raise ProtocolError("the server's first message isn't Opened")
            self._accept(answer)
        except BaseException:
            await stream.aclose()
            raise
        self._start(self._read, "reader")
        self._start(partial(self._send_latents, first_block, latents), "latents")
        self._start(self._send_acknowledgements, "acknowledgements")

    async def pull(self) -> LatentArray | None:
        """Take the next latents from the source, or None after the last.

        Cancellation: as `LatentSource.next`.
        """
        started_s = time.perf_counter()
        block = await self._source.next()
        self._statistics.produce_s += time.perf_counter() - started_s
        return block

    async def next_batch(self) -> FrameBatch | None:
        """Return the frames of the next message, or None after the last one.

        Raises:
            FramehaulError: the session failed, and all frames that had come before were taken.

        Cancellation: safe, no frame is lost.
        """
        started_s = time.perf_counter()
        try:
            while not self._batches:
                if self._error is not None:
                    raise self._error
                if self._finished:
                    return None
                self._post(self._window.acknowledge(idle=True))
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._statistics.wait_frames_s += time.perf_counter() - started_s
        return self._batches.popleft()

    def consume(self, num_frames: int) -> None:
        """Make room for `num_frames`: the caller is done with as many."""
        self._window.consume(num_frames)
        self._post(self._window.acknowledge(idle=False))

    async def aclose(self) -> None:
        """Cancel the call and the tasks.

        Cancellation: both are cancelled all the same.
        """
        try:
            if self._finished:
                await asyncio.wait(self._tasks[:1], timeout=_END_TIMEOUT_S)  # the reader
        finally:
            self._stream.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._stream.aclose()

    def _accept(self, answer: wire.Envelope[pb.StreamResponse]) -> None:
        self._opened = read_opened(answer.header.opened, self._config)
        _LOG.debug("opened: %s", self._opened)
        self._statistics.open_s = time.perf_counter() - self._started_s
        self._reassembly = Reassembly(self._opened.layout)
        self._window = FrameWindow(self._opened.window_frames)
        if self._config.window_frames is None:
            self._post(Acknowledgement(0, self._opened.window_frames))
        self._handle(answer)

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._tasks.append(asyncio.create_task(self._guard(work), name=f"framehaul {name}"))

    async def _guard(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except StreamClosed:
            pass  # the reader learns why
        except Exception as error:
            _LOG.debug("failed: %r", error)
            if self._error is None:
                self._error = error
            self._stream.cancel()
            self._changed.set()

    async def _read(self) -> None:
        while not self._finished:
            message = await self._stream.receive()
            if message is None:
                raise ProtocolError(
                    f"the server ended the stream after frame {self._reassembly.next_frame} without Done"
                )
            self._handle(message)
        # All is well whatever comes now; this is for the server, which then sees a clean end.
        with contextlib.suppress(FramehaulError):
            await self._stream.finish()
            await self._stream.receive()

    def _handle(self, message: wire.Envelope[pb.StreamResponse]) -> None:
        header = message.header
        if self._credit.grant(header.latents_until):
            self._room.set()
        if header.HasField("queued"):
            self.queue_position = header.queued.position
            _LOG.info("waiting for a turn at position %d", self.queue_position)
        if header.HasField("drain"):
            self.drain_grace_s = header.drain.grace_ms / 1000
            _LOG.warning("the server will stop: it gives this session %.1f s", self.drain_grace_s)
        if header.HasField("frames"):
            self._receive(header.frames, message.payload)
        if header.HasField("done"):
            self._end(header.done)

    def _receive(self, frames: pb.Frames, payload: memoryview) -> None:
        self.queue_position = None
        self._window.receive(frames.num_frames)
        batch = self._reassembly.accept(frames.first_frame, frames.num_frames, frames.crc32c, payload)
        statistics = self._statistics
        statistics.last_frame_s = time.perf_counter() - self._started_s
        if statistics.first_frame_s is None:
            statistics.first_frame_s = statistics.last_frame_s
        statistics.num_frames += frames.num_frames
        statistics.frame_bytes += len(payload)
        self._batches.append(batch)
        self._changed.set()

    def _end(self, done: pb.Done) -> None:
        if not self._latents_ended:
            raise ProtocolError(f"the server sent Done after latent {self._credit.next_latent}: more were to come")
        if done.num_latents != self._credit.next_latent:
            raise DataLoss(f"the server took {done.num_latents} latents: {self._credit.next_latent} were sent")
        self._reassembly.finish(done.num_frames)
        self._finished = True
        self._changed.set()
        _LOG.debug("done: %s", self._statistics)

    async def _send_latents(self, first_block: LatentArray, latents: LatentFormat) -> None:
        announced = self._config.num_latents
        block: LatentArray | None = first_block
        while block is not None:
            await self._send_block(as_block(block, latents, self._credit.next_latent), latents)
            if self._credit.next_latent == announced:
                break
            await self._wait_room()
            block = await self.pull()
        if announced is not None and self._credit.next_latent < announced:
            raise InvalidLatents(f"the latents ended after {self._credit.next_latent}: num_latents={announced}")
        self._latents_ended = True
        await self._stream.send(pb.StreamRequest(end_of_latents=True))

    async def _send_block(self, block: LatentArray, latents: LatentFormat) -> None:
        announced = self._config.num_latents
        if announced is not None and self._credit.next_latent + len(block) > announced:
            raise InvalidLatents(f"{self._credit.next_latent + len(block)} latents: num_latents={announced}")
        most = max(1, _MESSAGE_BYTES // latents.latent_bytes)
        while len(block):
            await self._wait_room()
            index = self._credit.next_latent
            num_latents = self._credit.take(len(block), most)
            payload = block[:num_latents].reshape(-1).view(np.uint8).data
            header = pb.StreamRequest(index=index, num_latents=num_latents, crc32c=crc32c.crc32c(payload))
            started_s = time.perf_counter()
            await self._stream.send(header, [payload])
            self._statistics.send_s += time.perf_counter() - started_s
            self._statistics.num_latents += num_latents
            self._statistics.latent_bytes += len(payload)
            block = block[num_latents:]

    async def _wait_room(self) -> None:
        started_s = time.perf_counter()
        while not self._credit.room:
            self._room.clear()
            await self._room.wait()
        self._statistics.wait_room_s += time.perf_counter() - started_s

    def _post(self, acknowledgement: Acknowledgement | None) -> None:
        if acknowledgement is not None:
            self._acknowledgement = acknowledgement
            self._acknowledge.set()

    async def _send_acknowledgements(self) -> None:
        while True:
            await self._acknowledge.wait()
            self._acknowledge.clear()
            if self._acknowledgement is not None:
                newest = self._acknowledgement
                ack = pb.Ack(next_frame=newest.next_frame, window_frames=newest.window_frames)
                await self._stream.send(pb.StreamRequest(ack=ack))
