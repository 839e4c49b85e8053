"""One session: latents from a client to the worker, frames from the worker to the client.

Runs on the event loop, in the RPC's own task and two children: the reader and the sender. The worker's events arrive as
plain calls and never wait for a socket: a published chunk is copied into messages and its slot given back at once,
because its frames were within the window before it was decoded.

A `Session` outlives its connections if it is resumable: `run` serves one, and is called again for the next.

The session owns its decoding, its latents and its frames, and lets go of all of them in one synchronous `close`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum

from framehaul.causes import Cause, Verdict
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import OutOfOrder, PipelineError
from framehaul_pipeline.link.messages import Published
from framehaul_server import logs
from framehaul_server.admission.places import Admission, Claim
from framehaul_server.core import responses
from framehaul_server.core.grant import latent_budget
from framehaul_server.core.limits import SessionRules, most_bytes
from framehaul_server.core.open_request import read_open
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.session_id import new_session_id
from framehaul_server.core.session_view import Look, SessionView
from framehaul_server.core.tenants import Caller
from framehaul_server.core.window import WindowLimits, allowed_latents, check_ack
from framehaul_server.errors import ClientStalled, Fenced, ServerError, SessionCancelled
from framehaul_server.logs import SessionRecord
from framehaul_server.session.connection import Connection, Request, is_loss, leading_error
from framehaul_server.session.decoding import Decoding, WorkerOpener
from framehaul_server.session.frames_out import FramesOut
from framehaul_server.session.latents_in import LatentsIn
from framehaul_server.session.stall_timer import StallTimer
from framehaul_server.session.time_keeper import TimeKeeper
from framehaul_server.session.waiting import wait_for_place

_log = logging.getLogger(__name__)


class SessionState(Enum):
    """Where a session stands with its connections, in the words of docs/protocol.md, "States"."""

    START = "start"
    """Checked, and nothing more."""
    QUEUED = "queued"
    OPENED = "opened"
    """Served; the client may not know the session's id."""
    SERVED = "served"
    DETACHED = "detached"
    """Waits for the next connection."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a connection ended."""

    detached: bool
    """The session waits for its next connection; else it is over."""
    error: BaseException | None
    """To be raised for the call; None: `Done` was sent."""


class Session:
    """A session from its first request to its end."""

    def __init__(
        self,
        first: Request,
        worker: WorkerOpener,
        rules: SessionRules,
        record: SessionRecord,
        caller: Caller,
        recorder: Recorder,
    ) -> None:
        """Check the first request; nothing is opened yet.

        Raises:
            PipelineError: the request isn't allowed.
            ServerError: likewise.
        """
        self._rules = rules
        self._record = record
        self.caller = caller
        """The session's owner."""
        self._ahead: deque[Request] = deque([first])
        """Requests that came before the session was run."""
        self._open_message, self.request = read_open(first.header, rules.opening, now_ns=time.monotonic_ns())
        caller.tenant.check_priority(self.request.opening.priority)
        self._explicit = self.request.explicit
        self.id = new_session_id(rules.epoch)
        self._limits = WindowLimits.of(self.request.spec, self.request.frame_bytes, rules.window_bytes)
        self.time_keeper = TimeKeeper(recorder, self._waiting_for, reports=self._explicit)
        self._frames_out = FramesOut(self.request, self._limits, record, self.time_keeper, window_moved=self._allow)
        self._decoding = Decoding(worker, self.request, caller.tenant, self, journal_bytes=rules.journal_bytes)
        budget = latent_budget(self.request.spec, self.request.latent_bytes, rules.latent_bytes, rules.chunk_latents)
        self._latents_in = LatentsIn(self.request, self._decoding, budget=budget)
        self._stall = StallTimer(rules.stall_timeout_s, position=self._position, stalled=self._stalled)
        self._state = SessionState.START
        self._unserved = asyncio.Event()
        """Set while no connection serves the session."""
        self._unserved.set()
        self._resumable = self.request.resumable
        self._error: PipelineError | ServerError | None = None
        """Ends the session."""
        self._ending: asyncio.Future[PipelineError | ServerError | None] | None = None
        """Of the present connection: None once the last response was written."""
        self._describe(record)

    @property
    def max_waiting_bytes(self) -> int:
        """Most bytes of latents and frames that the server may hold for this session."""
        return most_bytes(self.request, self._limits, self._latents_in.grant.budget, self._rules)

    async def wait_for_place(self, admission: Admission, claim: Claim, connection: Connection) -> None:
        """Keep the client informed until `claim` is held; see `waiting.wait_for_place`."""
        self._become(SessionState.QUEUED)
        ahead = self._ahead if self._explicit else None
        timeout_s = self._rules.stall_timeout_s
        await wait_for_place(admission, claim, connection, self._record, ahead, stall_timeout_s=timeout_s)

    async def run(self, connection: Connection) -> Outcome:
        """Serve the session on one connection, to the end of either.

        Cancellation: ends the connection, as if the client had left; told by the outcome.
        """
        error: BaseException | None = None
        try:
            await self._serve(connection)
        except BaseException as caught:
            error = caught
        self._stall.stop()
        self._record.num_latents = self._latents_in.input.num_received
        self.time_keeper.mark()
        known = self._state is SessionState.SERVED
        detached = error is not None and is_loss(error) and known and self._resumable
        if detached:
            self._become(SessionState.DETACHED)
            self._allow()
        else:
            self.close()
        return Outcome(detached=detached, error=error)

    def check_resume(self, first: Request) -> list[memoryview]:
        """Refuse to be resumed so; the connection that serves the session doesn't notice.

        Returns:
            The request's latents, for `check_values`.

        Raises:
            OutOfOrder: the session was opened with other values.
            InvalidInput: the client can't have exactly the frames it says it has.
            PipelineError: the request says something else that the session couldn't take.
            ServerError: likewise.
        """
        given, asked = pb.Open(), first.header.open
        given.CopyFrom(asked)
        given.resume.CopyFrom(self._open_message.resume)
        if given != self._open_message:
            raise OutOfOrder("open: the session to be resumed was opened with other values")
        self._frames_out.check_rewind(asked.resume.next_frame)
        return [] if first.header.cancel else self._check(first, num_sent=asked.resume.next_frame)

    async def check_values(self, latents: list[memoryview]) -> None:
        """Refuse to be resumed with these; the connection that serves the session doesn't notice.

        Cancellation: nothing has changed.

        Raises:
            InvalidInput: NaN or infinity.
        """
        await self._latents_in.check_values(latents)

    def resume(self, first: Request, record: SessionRecord) -> None:
        """Get ready to be `run` on a new connection, whose first request was checked; the old one is fenced."""
        self._frames_out.rewind(first.header.open.resume.next_frame)
        self._frames_out.record = self._record = record
        self._describe(record)
        self._open_message = first.header.open
        self._ahead = deque([first])

    async def fence(self) -> None:
        """End the connection that serves the session; nothing more is written to it when this returns.

        Cancellation: the connection ends all the same.
        """
        self._end_connection(Fenced("another connection has taken this session up"))
        await self._unserved.wait()

    def close(self) -> None:
        """Give everything back; twice is fine."""
        self._stall.stop()
        self.time_keeper.end()
        self._record.verdict = Verdict.of(self.time_keeper.seconds)
        self._decoding.drop()
        self._frames_out.close()
        self._become(SessionState.ENDED)

    def drain(self, grace_s: float) -> None:
        """Tell the client that the server will stop; the session no longer outlives its connection."""
        self._resumable = False
        self._frames_out.put(responses.drain(grace_s), urgent=True)

    def fail(self, error: PipelineError | ServerError) -> None:
        """End the session with `error`; the first one counts."""
        if self._error is None:
            self._error = error
        self._end_connection(self._error)

    def worker_ready(self) -> None:
        """Go on with a new worker where the old one died."""
        self._decoding.worker_ready()

    def view(self) -> SessionView:
        """The session now, for operators."""
        height, width = self.request.frame_size
        opening, window = self.request.opening, self._frames_out.window
        return SessionView(
            number=self.time_keeper.number,
            request_id=self._record.request_id,
            tenant=self.caller.tenant.name,
            model=opening.model,
            width=width,
            height=height,
            pixel_format=opening.pixel_format.value,
            explicit=self._explicit,
            priority=opening.priority,
            state=self._state.value,
            num_latents=self._latents_in.input.num_received,
            num_fed=min(self._decoding.num_fed, self._latents_in.input.num_received),
            num_published=self._frames_out.num_published,
            num_taken=window.num_taken,
            frames_until=window.frames_until,
            waiting_for=self._waiting_for() or Cause.DECODE,
            seconds=self.time_keeper.seconds,
        )

    def show(self, look: Look) -> None:
        """Let an operator see frames; see `FramesOut.show`."""
        self._frames_out.show(lambda outgoing: look(self.time_keeper.number, self.request, outgoing))

    # The decoding's events

    def on_fed(self, num_fed: int) -> None:
        """Make room for more latents."""
        self.time_keeper.mark()
        self._latents_in.fed(num_fed)
        if self._latents_in.grant_overdue:
            self._frames_out.put(responses.grant(self._latents_in.announce()))

    def on_published(self, published: Published, frames: memoryview) -> None:
        """Copy the frames into messages."""
        self._frames_out.publish(published, frames, latents_until=self._latents_in.announce())

    def on_ended(self, num_frames: int) -> None:
        """Queue the last response."""
        done = responses.done(num_frames, self._latents_in.input.num_received, self.time_keeper.seconds)
        self._frames_out.put(done, last=True)

    def on_failed(self, error: PipelineError) -> None:
        """There will be no more frames."""
        self.fail(error)

    # Its connection

    def _become(self, state: SessionState) -> None:
        if state is self._state:
            return
        _log.debug("%s", logs.line("session", id=self._record.request_id, was=self._state.value, now=state.value))
        self._state = state
        if state in (SessionState.OPENED, SessionState.SERVED):
            self._unserved.clear()
        else:
            self._unserved.set()

    def _end_connection(self, error: PipelineError | ServerError | None) -> None:
        """The first reason counts."""
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(error)

    async def _serve(self, connection: Connection) -> None:
        try:
            self._attach()
            assert self._ending is not None, "set a moment ago"
            await connection.send_headers()
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read(connection))
                tasks.create_task(self._send(connection))
                error = await self._ending
                if error is not None:
                    raise error
                reading.cancel()
        except BaseExceptionGroup as group:
            raise leading_error(group) from None

    def _attach(self) -> None:
        self._ending = asyncio.get_running_loop().create_future()
        self.time_keeper.begin()
        if self._error is not None:
            raise self._error
        if self._state is SessionState.DETACHED:
            self._become(SessionState.SERVED)
        else:
            self._decoding.start()
            self._become(SessionState.OPENED)
        self._frames_out.put(
            responses.opened(
                self.request,
                self._limits,
                session_id=self.id,
                request_id=self._record.request_id,
                next_latent=self._latents_in.input.num_received,
                latents_until=self._latents_in.repeat(),
            ),
            urgent=True,
        )
        self._allow()
        self._stall.start()

    async def _read(self, connection: Connection) -> None:
        request: Request | None = self._ahead.popleft()
        while request is not None:
            await self._take(request)
            request = None  # its latents must not outlive their way into the worker
            if not self._explicit:
                await self._latents_in.pending_fit()
            request = self._ahead.popleft() if self._ahead else await connection.read()
            if request is not None:
                self._become(SessionState.SERVED)
        if self._explicit:
            self._frames_out.hear_end()
        else:
            self._end_input()

    async def _take(self, request: Request) -> None:
        header = request.header
        if header.cancel:
            raise SessionCancelled("cancelled by the client")
        if header.HasField("open") and header.open != self._open_message:
            raise OutOfOrder("open: this session was opened with other values")
        latents = self._check(request, num_sent=self._frames_out.num_sent)
        if header.HasField("ack"):
            self._frames_out.acknowledge(header.ack)
        if latents:
            self.time_keeper.mark()
            first_latent, arrived_ns = self._latents_in.input.num_received, time.monotonic_ns()
            await self._latents_in.add(latents)
            self.time_keeper.took(first_latent, len(latents), arrived_ns)
        if header.end_of_latents:
            self._end_input()

    def _check(self, request: Request, *, num_sent: int) -> list[memoryview]:
        """Check all but the values of latents, when the client was sent the frames below `num_sent`; nothing changes.

        Returns:
            The request's latents.
        """
        header = request.header
        if header.HasField("ack"):
            if not self._explicit:
                raise OutOfOrder("ack: only sessions in EXPLICIT mode are acknowledged")
            check_ack(header.ack.next_frame, num_sent=num_sent)
        if header.HasField("synthetic"):
            raise OutOfOrder("synthetic: this session was opened for latents of the client's own")
        return self._latents_in.check(request)

    def _end_input(self) -> None:
        self.time_keeper.mark()
        self._latents_in.end()
        self._allow()

    async def _send(self, connection: Connection) -> None:
        await self._frames_out.run(connection)
        self._end_connection(None)

    # What its next frame waits for

    def _waiting_for(self) -> Cause | None:
        if self._state is SessionState.DETACHED:
            return Cause.NETWORK
        if self._decoding.in_worker:
            return None
        num_fed, latents, frames_out = self._decoding.num_fed, self._latents_in.input, self._frames_out
        if self._decoding.num_to_feed > num_fed:
            if self._num_allowed() > num_fed:
                return Cause.SHARED  # others fill the inlet, or the worker is replaced
            return Cause.NETWORK if frames_out.has_unsent else Cause.CLIENT_WINDOW
        client_has_all = not frames_out.has_unsent and frames_out.window.num_taken == frames_out.num_published
        return Cause.LATENTS if client_has_all and not latents.ended else Cause.NETWORK

    # A client that does nothing while a connection serves it

    def _position(self) -> object:
        request, frames_out, latents = self.request, self._frames_out, self._latents_in.input
        num_published = frames_out.num_published
        num_latents = min(self._decoding.num_to_feed, self._num_allowed())
        if request.spec.frames_after(num_latents, ended=latents.ended) > num_published:
            return object()  # it is the worker's turn: unlike any other position
        return latents.num_received, num_published, frames_out.window.num_taken

    def _stalled(self) -> None:
        timeout_s = self._rules.stall_timeout_s
        self.fail(ClientStalled(f"no frame was taken and no latent sent for {timeout_s:g} s"))

    def _allow(self) -> None:
        self._decoding.allow(self._num_allowed(), num_wanted=self._num_wanted())

    def _num_allowed(self) -> int:
        return self._latents_until(self._frames_out.window.frames_until)

    def _num_wanted(self) -> int:
        if self._state is SessionState.DETACHED:
            return 0  # nobody is there to wait
        chunk_frames = self.request.spec.most_frames(self._rules.chunk_latents)
        return self._latents_until(self._frames_out.window.wanted_until(chunk_frames))

    def _latents_until(self, frame: int) -> int:
        return allowed_latents(self.request.spec, frame, self._latents_in.input.num_latents)

    def _describe(self, record: SessionRecord) -> None:
        height, width = self.request.frame_size
        record.model = self.request.spec.name
        record.size = f"{width}x{height}"
        record.mode = "explicit" if self._explicit else "auto"
