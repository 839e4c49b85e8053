"""The frames side of a session: responses on their way to the client, and the window they must fit.

Runs on the event loop: `run` in a task of its own, everything else as plain calls.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.link.messages import Published
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.core.packing import Outgoing, frames_per_message, pack
from framehaul_server.core.retention import Retention
from framehaul_server.core.window import FrameWindow, WindowLimits
from framehaul_server.errors import ClientLeft
from framehaul_server.logs import SessionRecord
from framehaul_server.session.connection import Connection
from framehaul_server.session.time_keeper import TimeKeeper

_PARTING_TIMEOUT_S: Final = 30.0
"""How long an EXPLICIT client may keep the call open after `Done`."""


class Outbox:
    """Responses that wait for their turn: urgent ones pass the others, and each lane keeps its order.

    Bounded by its writers: frames by the session's window, the rest by a handful of control messages.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._urgent: deque[Outgoing] = deque()
        self._ordinary: deque[Outgoing] = deque()
        self._filled = asyncio.Event()

    def put(self, outgoing: Outgoing, *, urgent: bool = False) -> None:
        """Queue a response; never blocks."""
        (self._urgent if urgent else self._ordinary).append(outgoing)
        self._filled.set()

    def put_back(self, sent: Iterable[Outgoing]) -> None:
        """Queue responses that were sent once before all that wait; urgent ones were for another connection."""
        self._urgent.clear()
        self._ordinary.extendleft(reversed(list(sent)))
        self._filled.set()

    @property
    def has_ordinary(self) -> bool:
        """Whether frames wait, or what comes after them."""
        return bool(self._ordinary)

    @property
    def newest(self) -> Outgoing | None:
        """The last response with frames that waits."""
        return next((outgoing for outgoing in reversed(self._ordinary) if outgoing.num_frames), None)

    async def get(self) -> Outgoing:
        """Take the next response.

        Cancellation: nothing is taken.
        """
        while not (self._urgent or self._ordinary):
            self._filled.clear()
            await self._filled.wait()
        return (self._urgent or self._ordinary).popleft()

    def clear(self) -> None:
        """Drop what waits."""
        self._urgent.clear()
        self._ordinary.clear()


class FramesOut:
    """Sends one session's responses in order, frames no faster than the client takes them."""

    def __init__(
        self,
        request: OpenRequest,
        limits: WindowLimits,
        record: SessionRecord,
        time_keeper: TimeKeeper,
        *,
        window_moved: Callable[[], None],
    ) -> None:
        """Start with the window that `request` asks for; `window_moved` is called when it lets more frames through."""
        self._time_keeper = time_keeper
        self._writing = False
        self._num_sent = request.start_frame
        """Frames below this one were sent at least once."""
        self._explicit = request.explicit
        self.record = record
        """Of the call that the responses go out by."""
        self._keep = request.resumable
        self._window_moved = window_moved
        self.window = FrameWindow(limits, initial_frames=request.window_frames, first_frame=request.start_frame)
        self._frames_to_a_message = {
            waits: frames_per_message(request.frame_bytes, request.max_message_bytes, waits=waits)
            for waits in (False, True)
        }
        self._outbox = Outbox()
        self._retention = Retention(request.start_frame)
        self.num_published = request.start_frame
        """Frames below this one are made."""
        self._look: Callable[[Outgoing], bool] | None = None
        """Wants to see frames."""
        self._heard_all = asyncio.Event()
        """Set when an EXPLICIT client has nothing left to say."""

    @property
    def has_unsent(self) -> bool:
        """Whether frames wait for the connection."""
        return self._writing or self._outbox.has_ordinary

    @property
    def num_sent(self) -> int:
        """Frames below this one were sent on the present connection, or before."""
        return self._retention.num_sent

    def put(self, response: pb.StreamResponse, *, urgent: bool = False, last: bool = False) -> None:
        """Queue a response without frames; an urgent one passes the frames that wait."""
        self._outbox.put(Outgoing(message=response.SerializeToString(), last=last), urgent=urgent)

    def publish(self, published: Published, frames: memoryview, *, latents_until: int) -> None:
        """Copy a chunk's frames into responses."""
        self._time_keeper.published(published)
        self.num_published += published.num_frames
        for outgoing in pack(published, frames, self._frames_to_a_message[self.has_unsent], latents_until):
            self._outbox.put(outgoing)
            self._offer(outgoing)

    def show(self, look: Callable[[Outgoing], bool]) -> None:
        """Let `look` see the newest frames that are here, or else those that come, until it says that it took some."""
        self._look = look
        newest = self._outbox.newest or self._retention.newest
        if newest is not None:
            self._offer(newest)

    def _offer(self, outgoing: Outgoing) -> None:
        if self._look is not None and self._look(outgoing):
            self._look = None

    def acknowledge(self, ack: pb.Ack) -> None:
        """Move the window of an EXPLICIT session.

        Raises:
            InvalidInput: more is acknowledged than was sent.
        """
        self._time_keeper.acknowledged(ack.next_frame, ack.busy_us * 1000)
        self.window.ack(ack.next_frame, ack.window_frames, num_sent=self.num_sent)
        self._retention.acknowledge(ack.next_frame)
        self._window_moved()
        if self._retention.complete:
            self._heard_all.set()

    def check_rewind(self, next_frame: int) -> None:
        """Refuse what `rewind` would refuse.

        Raises:
            InvalidInput: the client can't have exactly the frames below `next_frame`.
        """
        self._retention.check(next_frame)

    def rewind(self, next_frame: int) -> None:
        """Start over on a new connection, whose client has every frame below `next_frame`.

        Raises:
            InvalidInput: it can't have exactly those.
        """
        self._outbox.put_back(self._retention.rewind(next_frame))
        self._heard_all.clear()

    def hear_end(self) -> None:
        """Note that an EXPLICIT client closed its half of the call.

        Raises:
            ClientLeft: before `Done`, or without having acknowledged every frame of a resumable session.
        """
        if not self._retention.done_sent or (self._keep and not self._retention.complete):
            raise ClientLeft("an EXPLICIT session's request stream ended before Done: half-closed, or the client left")
        self._heard_all.set()

    async def run(self, connection: Connection) -> None:
        """Send responses until the last one is out and the client was heard.

        Cancellation: a response may be lost, so end the session.

        Raises:
            ConnectionLost: the client is gone.
        """
        while not self._retention.done_sent:
            outgoing = await self._outbox.get()
            # Now, since the client's answer may overtake the write's return.
            self._retention.sent(outgoing, keep=self._keep)
            await self._write(outgoing, connection)
            if not self._explicit and outgoing.num_frames:
                self.window.take(outgoing.num_frames)
                self._window_moved()
        if self._explicit and not self._retention.complete:
            await self._part()

    async def _write(self, outgoing: Outgoing, connection: Connection) -> None:
        start_ns, self._writing = time.monotonic_ns(), True
        try:
            await connection.write(outgoing.message)
        finally:
            # Also if the write fails: the client may have the frames all the same.
            if outgoing.num_frames:
                again = outgoing.first_frame < self._num_sent
                first, num_bytes = outgoing.first_frame, len(outgoing.message)
                self._time_keeper.sent(first, outgoing.num_frames, num_bytes=num_bytes, again=again, start_ns=start_ns)
                self._num_sent = max(self._num_sent, outgoing.first_frame + outgoing.num_frames)
            self.record.sent(len(outgoing.message), outgoing.num_frames)
            self._writing = False

    async def _part(self) -> None:
        """Leave the call open while acknowledgements may be under way.

        A write that meets an ended call is an error to some gRPC libraries, before they have read what came.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_PARTING_TIMEOUT_S):
                await self._heard_all.wait()

    def close(self) -> None:
        """Drop what waits and what is kept; twice is fine."""
        self._outbox.clear()
        self._retention.clear()
