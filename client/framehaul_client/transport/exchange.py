"""A session's traffic, over as many calls as it takes.

A task runs one call after another. When one is lost, it resumes the session where the frames stopped, or opens a new
one at that frame if the server has forgotten it. The caller's own task takes the frames. `core` decides what may be
done (`reassembly`, `window`, `retry`); this waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.core.events import Event
from framehaul_client.core.frames import FrameBatch
from framehaul_client.core.info import read_charged
from framehaul_client.core.latents import LatentArray
from framehaul_client.core.opening import Opened, aged, frames_wanted, open_message, read_opened, restarted, resumed
from framehaul_client.core.reassembly import Reassembly
from framehaul_client.core.retry import Retry
from framehaul_client.core.session_config import SessionConfig
from framehaul_client.core.statistics import SessionStatistics
from framehaul_client.core.window import Acknowledgement, FrameWindow
from framehaul_client.errors import (
    DataLoss,
    FramehaulError,
    InvalidRequest,
    NotFound,
    ProtocolError,
    Refused,
    ServerUnavailable,
)
from framehaul_client.source.history import LatentHistory
from framehaul_client.transport.call import Call, latents_message
from framehaul_client.transport.patience import Patience, answer_within
from framehaul_client.transport.queueing import QueuePosition, receive_opened
from framehaul_client.transport.rpc import Rpc, RpcEnded
from framehaul_client.transport.servers import Servers

_LOG: Final = logging.getLogger(__name__)
_END_TIMEOUT_S: Final = 1.0
_FRONT: Final = "FRONT"
"""Why a front refuses a session (docs/protocol.md, "Statuses")."""
_MOST_HOPS: Final = 3
_FIRST_BYTES: Final = 256 << 10
"""The largest latent that travels with the first message, which may wait in the server's queue."""


@dataclass(frozen=True, slots=True)
class _Handed:
    """Frames that the consumer works on, without their memory."""

    first_frame: int
    num_frames: int
    since_ns: int


class _PlaceElsewhere(Exception):
    """A session waits in a queue, and the first of `targets`, which `front` names, has a place: no error."""

    def __init__(self, front: str, targets: list[str]) -> None:
        super().__init__(front)
        self.front = front
        self.targets = targets


class Exchange:
    """Owner of a session's calls and of the task that runs them."""

    def __init__(
        self,
        history: LatentHistory,
        config: SessionConfig,
        statistics: SessionStatistics,
        servers: Servers,
        queue: QueuePosition,
    ) -> None:
        """Prepare to send the latents of `history`, which the caller closes, and to keep `queue` up to date."""
        self._history = history
        self._config = config
        self._statistics = statistics
        self._servers = servers
        self._server: str | None = None  # where it was opened or resumed last
        self._way: list[tuple[str, str]] = []  # the fronts that lead to where it is being opened, and what each named
        self._queue = queue
        self._retry = Retry(config.retry_for_s)
        self._patience = Patience(config.stall_timeout_s)
        self._batches: deque[FrameBatch] = deque()  # received, not yet handed out: the window bounds it
        self._changed = asyncio.Event()  # frames came, or the session ended
        self._life: asyncio.Task[None] | None = None
        self._call: Call | None = None
        self._finished = False  # Done has come, and all frames before it
        self._leaving = False
        self._error: Exception | None = None
        self._started_s = self._asked_s = 0.0
        self._handed: _Handed | None = None  # what the consumer works on
        self.drain_grace_s: float | None = None
        self._open: pb.Open  # what opened the session on its present server
        self._num_latents: int | None = None  # of the clip, once all were sent
        self._num_sent = 0  # the most latents that were sent on any call
        self.num_frames: int | None = None
        """How many frames are handed out in all; None while that isn't known."""
        self._session_id = b""  # empty when there is no session to resume
        self._opened: Opened | None = None
        self._reassembly: Reassembly
        self._window: FrameWindow

    @property
    def opened(self) -> Opened:
        """What the server agreed to."""
        assert self._opened is not None, "opened before anybody asks"
        return self._opened

    async def open(self) -> None:
        """Open the session and start the task.

        Raises:
            FramehaulError: the server refused the session or can't be reached.

        Cancellation: the call is cancelled.
        """
        self._started_s = self._asked_s = time.perf_counter()
        self._open = open_message(self._config, self._history.latents)
        try:
            call: Call | None = await self._attach()
        except FramehaulError as error:
            call = await self._reconnect(error)
        self._started_s += self._statistics.queued_s  # times are measured from when there was room
        self._statistics.open_s = time.perf_counter() - self._started_s
        self._life = asyncio.create_task(self._live(call), name="framehaul session")

    async def next_batch(self) -> FrameBatch | None:
        """Return the frames of the next message, or None after the last one.

        Raises:
            FramehaulError: the session failed; all frames that had come before were handed out.

        Cancellation: no frame is lost.
        """
        started_s = time.perf_counter()
        if (handed := self._handed) is not None:
            self._statistics.consume_s += self._present_s()
            self._tell("consume", handed.first_frame, handed.num_frames, start_ns=handed.since_ns)
            self._handed = None
        try:
            while not self._batches:
                if self._error is not None:
                    raise self._error
                if self._finished:
                    return None
                self._post(self._window.acknowledge(idle=True))
                self._changed.clear()
                with self._patience.awaiting_frames():
                    await self._changed.wait()
        finally:
            self._statistics.wait_frames_s += time.perf_counter() - started_s
        batch = self._batches.popleft()
        self._handed = _Handed(batch.first_frame, len(batch), time.monotonic_ns())
        return batch

    def consume(self, num_frames: int) -> None:
        """Make room for `num_frames`, which the caller is done with."""
        self._window.consume(num_frames)
        self._post(self._window.acknowledge(idle=False))

    async def aclose(self) -> None:
        """End the session, if it hasn't ended.

        Cancellation: the call is cancelled, and the server may keep the session for a while.
        """
        self._leaving = True
        life = self._life
        if life is None:
            return
        try:
            if self._finished:
                await asyncio.wait([life], timeout=_END_TIMEOUT_S)
            elif self._call is not None:
                await self._call.leave()
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)

    async def _live(self, call: Call | None) -> None:
        try:
            while call is not None:
                self._call = call
                try:
                    async with self._patience.watch():
                        await call.run()
                    return
                except FramehaulError as error:
                    lost = error
                finally:
                    if call.num_latents is not None:
                        self._num_latents = call.num_latents
                    self._num_sent = max(self._num_sent, call.next_latent)
                    self._call = None
                    await call.aclose()
                if self._leaving:
                    return
                call = await self._reconnect(lost)
        except Exception as error:
            _LOG.debug("failed: %r", error)
            self._error = error
            self._changed.set()

    async def _reconnect(self, error: FramehaulError) -> Call | None:
        """Resume the session or open a new one after `error`; None if nothing is missing any more."""
        told: type[FramehaulError] | None = None
        while True:
            now_s = time.monotonic() - self._statistics.queued_s  # in a queue no time passes
            delay_s = self._retry.delay_s(error, now_s, opened=self._opened is not None)
            if type(error) is not told:
                told = type(error)
                _LOG.warning("%s: trying again for up to %g s", error, self._config.retry_for_s)
            await asyncio.sleep(delay_s)
            try:
                call = await self._take_up()
            except FramehaulError as failed:
                error = failed
            else:
                self._statistics.num_reconnects += call is not None
                return call

    async def _take_up(self) -> Call | None:
        """Resume the session, or open a new one at once if the server has lost it; None if nothing is missing."""
        try:
            return await self._attach()
        except NotFound as unknown:
            if not self._session_id:
                raise
            self._session_id = b""
            if self._is_complete():
                self._finish()
                return None
            _LOG.warning("the server has lost the session (%s)", unknown)
        return await self._attach()

    async def _attach(self) -> Call:
        """Open the session, resume it, or open one that goes on from here, where the client's target says."""
        target = self._servers.target
        self._way.clear()
        try:
            return await self._attach_through(target, num_hops=0)
        except ServerUnavailable:
            # A front that is gone may have left the session's server behind.
            if self._server is None or not self._servers.is_front(target):
                raise
            self._way.clear()
            return await self._attach_at(self._server)

    async def _attach_through(self, target: str, *, num_hops: int) -> Call:
        """At the server there or, where a front is, at the first of those that it names that will have it."""
        if not self._servers.is_front(target):
            try:
                return await self._attach_at(target)
            except InvalidRequest as error:
                if error.reason != _FRONT:
                    raise
                self._servers.note_front(target)
        if num_hops == _MOST_HOPS:
            raise ProtocolError(f"{target} is a front, after {num_hops} others: at most {_MOST_HOPS} are followed")
        refused: FramehaulError | None = None
        left = deque((await self._servers.locate(target, self._wanted())).targets)
        while left:
            named = left.popleft()
            _LOG.debug("%s names %s", target, named)
            self._way[num_hops:] = [(target, named)]
            try:
                return await self._attach_through(named, num_hops=num_hops + 1)
            except (ServerUnavailable, Refused) as error:
                refused = error
            except _PlaceElsewhere as found:
                if found.front != target:
                    raise
                left = deque(found.targets)
        assert refused is not None, "a front names at least one"
        raise refused

    def _wanted(self) -> pb.LocateRequest:
        return pb.LocateRequest(session_id=self._session_id, model=self._open.model, geometry=self._open.geometry)

    async def _look_elsewhere(self) -> None:
        """Leave a server's queue if a front that led there now knows a server with a place.

        Raises:
            _PlaceElsewhere: it does.
        """
        for front, named in self._way:
            with contextlib.suppress(FramehaulError):  # without an answer the session waits on where it is
                found = await self._servers.locate(front, self._wanted())
                if found.has_place and found.targets[0] != named:
                    raise _PlaceElsewhere(front, found.targets)

    async def _attach_at(self, target: str) -> Call:
        asked = self._ask()
        first = await self._first_latent()
        rpc = await self._servers.start(target)
        try:
            async with answer_within(self._config.stall_timeout_s):
                with contextlib.suppress(RpcEnded):  # receiving tells why
                    await self._send_open(rpc, asked, first)
            timeout_s = self._config.stall_timeout_s
            answer = await receive_opened(rpc, self._queue, timeout_s, self._look_elsewhere)
            await self._accept(asked, answer.header.opened, num_sent=0 if first is None else len(first))
            num_latents = self._config.num_latents
            call = Call(
                rpc,
                self._receive,
                self._window,
                self._history,
                self._statistics,
                self._patience,
                num_latents=num_latents,
                on_event=self._config.on_event,
            )
            self._receive(answer, call)
        except BaseException:
            await rpc.aclose()
            raise
        self._server = target
        if self._reassembly.next_frame or self._config.window_frames is None:
            call.post(self._window.repeat())
        return call

    async def _first_latent(self) -> LatentArray | None:
        """What travels with the very first message: one round trip less to the first frame."""
        if self._opened is not None or self._open.start_frame:
            return None
        await self._history.rewind(0)
        block = await self._history.next()
        assert block is not None, "the caller has seen it"
        return block[:1] if block[0].nbytes <= _FIRST_BYTES else None

    async def _send_open(self, rpc: Rpc, asked: pb.Open, first: LatentArray | None) -> None:
        if first is None:
            await rpc.send(pb.StreamRequest(open=asked))
            return
        header, payload = latents_message(0, first)
        header.open.CopyFrom(asked)
        self._statistics.latent_bytes += len(payload)
        start_ns = time.monotonic_ns()
        await rpc.send(header, [payload])
        self._tell("latents", 0, len(first), start_ns=start_ns)

    def _ask(self) -> pb.Open:
        age_s = time.perf_counter() - self._asked_s
        if self._opened is None:
            return aged(self._open, age_s)
        next_frame = self._reassembly.next_frame
        if self._session_id:
            return resumed(self._open, self._session_id, next_frame)
        asked = restarted(self._open, next_frame, self._window.room, reproducible=self._opened.reproducible)
        return aged(asked, age_s)

    async def _accept(self, asked: pb.Open, answer: pb.Opened, *, num_sent: int) -> None:
        opened = read_opened(answer, asked, self._config, before=self._opened, num_sent=self._num_sent)
        if self._opened is None:
            end_frame = frames_wanted(opened, self._config.num_latents, self._config.num_frames)
            self.num_frames = None if end_frame is None else end_frame - asked.start_frame
            self._reassembly = Reassembly(opened.layout, asked.start_frame)
            self._window = FrameWindow(opened.window_frames, asked.start_frame)
        elif self._session_id:
            _LOG.warning("resumed at frame %d", self._reassembly.next_frame)
        else:
            self._window.reopen(max(asked.window_frames, opened.min_window_frames))
            _LOG.warning("a new session goes on at frame %d", self._reassembly.next_frame)
        if not self._session_id:
            self._open = asked
        self._opened = opened
        self._session_id = opened.session_id
        self._tell("opened", request_id=opened.request_id)
        await self._history.rewind(max(opened.next_latent, num_sent))
        self._statistics.num_latents = max(self._statistics.num_latents, num_sent)

    def _receive(self, message: wire.Envelope[pb.StreamResponse] | None, call: Call) -> bool:
        """Handle a message of `call`, or its end; True after the session's last message."""
        if message is None:
            raise ProtocolError(f"the server ended the stream after frame {self._reassembly.next_frame} without Done")
        header = message.header
        if call is self._call and (header.HasField("opened") or header.HasField("queued")):
            raise ProtocolError(f"the server opened the session again after frame {self._reassembly.next_frame}")
        call.grant(header.latents_until)
        if header.HasField("drain") and self.drain_grace_s is None:
            self.drain_grace_s = header.drain.grace_ms / 1000
            _LOG.warning("the server will stop: it gives this session %.1f s", self.drain_grace_s)
        if header.HasField("frames"):
            self._receive_frames(header.frames, message.payload, call)
        if header.HasField("done"):
            self._end(header.done, call)
        return self._finished

    def _receive_frames(self, frames: pb.Frames, payload: memoryview, call: Call) -> None:
        num_sent = max(self._num_sent, call.next_latent)
        most, end = self.opened.num_frames(num_sent), frames.first_frame + frames.num_frames
        if end > most:
            raise DataLoss(f"frames up to {end} arrived: {num_sent} latents give {most}")
        self._window.receive(frames.num_frames)
        batch = self._reassembly.accept(frames.first_frame, frames.num_frames, frames.crc32c, payload)
        self._retry.progressed()
        self._patience.news()
        self._tell("frames", frames.first_frame, frames.num_frames)
        self._history.forget(self.opened.first_latent_needed(self._reassembly.next_frame))
        statistics = self._statistics
        statistics.last_frame_s = time.perf_counter() - self._started_s
        if statistics.first_frame_s is None:
            statistics.first_frame_s = statistics.last_frame_s
        statistics.frame_bytes += len(payload)
        most = len(batch)
        if self.num_frames is not None:
            most = max(0, self._config.start_frame + self.num_frames - batch.first_frame)
        if wanted := min(len(batch), most):
            self._batches.append(FrameBatch(batch.first_frame, batch.frames[:wanted]))
            statistics.num_frames += wanted
            self._changed.set()
        if left_out := len(batch) - wanted:
            self._window.consume(left_out)
            self._post(self._window.acknowledge(idle=True))

    def _end(self, done: pb.Done, call: Call) -> None:
        num_latents = self._num_latents if call.num_latents is None else call.num_latents
        if num_latents is None:
            raise ProtocolError(f"the server sent Done after latent {call.next_latent}: more were to come")
        if done.num_latents != num_latents:
            raise DataLoss(f"the server took {done.num_latents} latents: {num_latents} were sent")
        self._statistics.server_s = read_charged(done.charged)
        self._reassembly.finish(done.num_frames)
        if done.num_frames != (expected := self.opened.num_frames(num_latents)):
            raise DataLoss(f"the server sent {done.num_frames} frames: {num_latents} latents give {expected}")
        self._finish()

    def _finish(self) -> None:
        self._finished = True
        self._changed.set()

    def _is_complete(self) -> bool:
        """Whether every frame has come, though Done has not."""
        num_latents = self._num_latents
        return num_latents is not None and self._reassembly.next_frame == self.opened.num_frames(num_latents)

    def _post(self, acknowledgement: Acknowledgement | None) -> None:
        if acknowledgement is not None and self._call is not None:
            self._call.post(replace(acknowledgement, busy_us=round(self._consume_s() * 1e6)))

    def _consume_s(self) -> float:
        """How long the consumer has worked on frames, until now."""
        return self._statistics.consume_s + self._present_s()

    def _present_s(self) -> float:
        """Of that, on the frames that it has now."""
        return 0.0 if self._handed is None else (time.monotonic_ns() - self._handed.since_ns) / 1e9

    def _tell(
        self, name: str, first: int = 0, count: int = 0, *, start_ns: int | None = None, request_id: str = ""
    ) -> None:
        if self._config.on_event is not None:
            now_ns = time.monotonic_ns()
            start_ns = now_ns if start_ns is None else start_ns
            self._config.on_event(Event(name, start_ns, now_ns, first, count, request_id))
