"""One session: latents from a client to the worker, frames from the worker to the client.

Runs on the event loop, in the RPC's own task and three children: the reader, the sender and, for synthetic latents,
the feed. The worker's events arrive as plain calls and never wait for a socket: a published chunk is copied into
messages and its slot given back at once, because its frames were within the window before it was decoded.

A resumable session outlives its connection: `run` is called again for each one that follows.

The session owns its production, grant, input and delivery, and lets go of all of them in one synchronous `close`.
"""

from __future__ import annotations

import asyncio

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import OutOfOrder, PipelineError
from framehaul_server.core import responses
from framehaul_server.core.grant import latent_budget
from framehaul_server.core.limits import SessionRules, most_bytes
from framehaul_server.core.open_request import OpenRequest, read_open
from framehaul_server.core.tenants import Caller
from framehaul_server.core.window import WindowLimits, allowed_latents
from framehaul_server.errors import ClientStalled, Fenced, ServerError, SessionCancelled
from framehaul_server.logs import SessionRecord
from framehaul_server.rpc.boundary import is_loss, leading_error
from framehaul_server.rpc.requests import Request, Requests
from framehaul_server.session.decoding import PublishedChunk
from framehaul_server.session.frames_out import Delivery, WritableContext
from framehaul_server.session.latents_in import Intake
from framehaul_server.session.production import Production
from framehaul_server.session.stall_timer import StallTimer
from framehaul_server.session.worker_link import WorkerOpener


class Session:
    """A session from its first request to its end."""

    def __init__(
        self, first: Request, worker: WorkerOpener, rules: SessionRules, record: SessionRecord, caller: Caller
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
        self._first: Request | None = first
        self._open_message, self._request = read_open(first.header, rules.opening)
        caller.tenant.check_priority(self._request.priority)
        self._explicit = self._request.explicit
        self.id = responses.new_session_id()
        self._limits = WindowLimits.of(self._request.spec, self._request.frame_bytes, rules.window_bytes)
        self._delivery = Delivery(self._request, self._limits, record, window_moved=self._allow)
        self._production = Production(worker, self._request, caller.tenant, self, journal_bytes=rules.journal_bytes)
        budget = latent_budget(self._request.spec, self._request.latent_bytes, rules.latent_bytes, rules.chunk_latents)
        self._intake = Intake(self._request, self._production, rules.opening, budget=budget)
        self._stall = StallTimer(rules.stall_timeout_s, position=self._position, stalled=self._stalled)
        self._opened = False
        self._confirmed = False
        """The client has answered `Opened`: it knows the session's id."""
        self._keep = self._request.resumable
        self._attached = False
        self._detached = asyncio.Event()
        """Set while no connection serves the session."""
        self._detached.set()
        self._over = asyncio.Event()
        """The present connection's: set when the last response was written, or with an error."""
        self._error: PipelineError | ServerError | None = None
        """Ends the session."""
        self._fenced: Fenced | None = None
        """Ends the present connection."""
        self.survives = False
        """After `run`: the session waits for its next connection."""
        self._describe(record)

    @property
    def model(self) -> str:
        """Name of the decoder."""
        return self._request.spec.name

    @property
    def request(self) -> OpenRequest:
        """What the client asked for."""
        return self._request

    @property
    def max_waiting_bytes(self) -> int:
        """Most bytes of latents and frames that the server may hold for this session."""
        return most_bytes(self._request, self._limits, self._intake.budget, self._rules)

    async def run(self, requests: Requests, context: WritableContext) -> None:
        """Serve the session on one connection; `Done` was sent when this returns.

        Cancellation: as when the client left; so does every error that isn't the connection's alone.

        Raises:
            PipelineError: the session can't go on: bad input, a lost worker.
            ServerError: likewise; the client cancelled, left, or is served by another connection.
            grpc.aio.BaseError: the client is gone.
        """
        self._attached, self._fenced, self.survives = True, None, False
        self._detached.clear()
        self._over = asyncio.Event()
        try:
            await self._serve(requests, context)
        except BaseException as error:
            self.survives = self._confirmed and self._keep and is_loss(error)
            raise
        finally:
            self._attached = False
            self._detached.set()
            self._stall.stop()
            if not self.survives:
                self.close()
            self._record.num_latents = self._intake.num_received

    def resume(self, first: Request, record: SessionRecord) -> None:
        """Get ready to be `run` on a new connection, whose first request is `first`; the old one is fenced.

        Raises:
            OutOfOrder: the session was opened with other values.
            InvalidInput: the client can't have exactly the frames it says it has.
        """
        wanted, known = pb.Open(), pb.Open()
        wanted.CopyFrom(first.header.open)
        known.CopyFrom(self._open_message)
        for message in (wanted, known):
            message.ClearField("resume")
        if wanted != known:
            raise OutOfOrder("open: the session to be resumed was opened with other values")
        self._delivery.rewind(first.header.open.resume.next_frame)
        self._delivery.record = self._record = record
        self._describe(record)
        self._open_message = first.header.open
        self._first = first

    async def fence(self) -> None:
        """End the connection that serves the session; nothing more is written to it when this returns.

        Cancellation: the connection ends all the same.
        """
        while self._attached:
            self._fenced = Fenced("another connection has taken this session up")
            self._over.set()
            await self._detached.wait()

    def close(self) -> None:
        """Give everything back; twice is fine."""
        self._stall.stop()
        self._production.close()
        self._delivery.close()

    def drain(self, grace_s: float) -> None:
        """Tell the client that the server will stop; the session no longer outlives its connection."""
        self._keep = False
        self._delivery.put(responses.drain(grace_s), urgent=True)

    def fail(self, error: PipelineError | ServerError) -> None:
        """End the session with `error`; the first one counts."""
        if self._error is None:
            self._error = error
        self._over.set()

    def worker_ready(self) -> None:
        """Go on with a new worker where the old one died."""
        self._production.worker_ready()

    # The production's events

    def on_fed(self, num_fed: int) -> None:
        """Make room for more latents."""
        self._intake.fed(num_fed)
        if self._intake.grant_overdue:
            self._delivery.put(responses.grant(self._intake.announce()))

    def on_frames(self, chunk: PublishedChunk) -> None:
        """Copy the frames into messages."""
        self._delivery.publish(chunk, latents_until=self._intake.announce())

    def on_ended(self, num_frames: int) -> None:
        """Queue the last response."""
        self._delivery.put(responses.done(num_frames, self._intake.num_received), last=True)

    # Its tasks

    async def _serve(self, requests: Requests, context: WritableContext) -> None:
        try:
            self._attach()
            # Not left to the first write: if that one is cancelled, grpc.aio sends the headers a second time with the
            # status, which fails, and the client never hears of the end. Not earlier either: only a refusal without
            # headers is retried by gRPC clients.
            await context.send_initial_metadata(())
            async with asyncio.TaskGroup() as tasks:
                helpers = [tasks.create_task(self._read(requests))]
                if self._request.synthetic:
                    helpers.append(tasks.create_task(self._intake.make_latents()))
                helpers.append(tasks.create_task(self._send(context)))
                await self._over.wait()
                ending = self._error or self._fenced
                if ending is not None:
                    raise ending
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as group:
            raise leading_error(group) from None

    def _attach(self) -> None:
        request = self._request
        if not self._opened:
            self._production.start()
            self._opened = True
        elif self._error is not None:
            raise self._error
        self._delivery.put(
            responses.opened(
                request,
                self._limits,
                session_id=self.id,
                next_latent=self._intake.num_received,
                latents_until=self._intake.repeat(),
            ),
            urgent=True,
        )
        self._allow()
        self._stall.start()

    async def _read(self, requests: Requests) -> None:
        request, self._first = self._first, None  # its latents must not outlive their way into the worker
        while request is not None:
            await self._take(request)
            request = None
            if not self._explicit:
                await self._intake.pending_fit()
            request = await requests.read()
            self._confirmed = self._confirmed or request is not None
        if self._explicit:
            self._delivery.hear_end()
        else:
            self._end_input()

    async def _take(self, request: Request) -> None:
        header = request.header
        if header.cancel:
            raise SessionCancelled("cancelled by the client")
        if header.HasField("open") and header.open != self._open_message:
            raise OutOfOrder("open: this session was opened with other values")
        if header.HasField("ack"):
            self._acknowledge(header.ack)
        if header.HasField("synthetic"):
            self._intake.add_synthetic(header.synthetic)
        if request.payload or header.num_latents or header.HasField("index") or header.HasField("crc32c"):
            await self._intake.add(request)
        if header.end_of_latents:
            self._end_input()

    def _acknowledge(self, ack: pb.Ack) -> None:
        if not self._explicit:
            raise OutOfOrder("ack: only sessions in EXPLICIT mode are acknowledged")
        self._delivery.acknowledge(ack)

    def _end_input(self) -> None:
        self._intake.end()
        self._allow()

    async def _send(self, context: WritableContext) -> None:
        await self._delivery.run(context)
        self._over.set()

    # A client that does nothing while a connection serves it

    def _position(self) -> object:
        request, delivery, intake = self._request, self._delivery, self._intake
        num_published = delivery.num_published
        num_latents = min(intake.num_received, self._num_allowed())
        if request.spec.frames_after(num_latents, ended=intake.ended) > num_published:
            return object()  # it is the worker's turn: unlike any other position
        return intake.num_received, num_published, delivery.num_taken

    def _stalled(self) -> None:
        timeout_s = self._rules.stall_timeout_s
        self.fail(ClientStalled(f"no frame was taken and no latent sent for {timeout_s:g} s"))

    def _allow(self) -> None:
        self._production.allow(self._num_allowed())

    def _num_allowed(self) -> int:
        return allowed_latents(self._request.spec, self._delivery.frames_until, self._intake.num_latents)

    def _describe(self, record: SessionRecord) -> None:
        height, width = self._request.frame_size
        record.model = self._request.spec.name
        record.size = f"{width}x{height}"
        record.mode = "explicit" if self._explicit else "auto"
