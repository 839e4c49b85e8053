"""The handlers of `framehaul.v1.FrameService`. Run on the event loop.

Messages travel as raw bytes in both directions, so that frames pass protobuf by and malformed requests get a status of
ours. What goes over the wire is what a generated servicer would send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import OutOfOrder, Unavailable
from framehaul_server.access.callers import Identify
from framehaul_server.admission.places import Admission, Claim
from framehaul_server.admission.reading import Reader, Reading
from framehaul_server.admission.unread_calls import UnreadCalls
from framehaul_server.core.limits import SessionRules, most_read
from framehaul_server.core.open_request import find_model
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.session_view import Look, SessionView
from framehaul_server.core.tenants import Caller, Tenant
from framehaul_server.logs import SessionRecord
from framehaul_server.rpc import highlights
from framehaul_server.rpc.boundary import guard, new_record
from framehaul_server.rpc.connection import Context, RenderConnection, StreamConnection
from framehaul_server.rpc.info import told_to
from framehaul_server.rpc.spans import open_spans
from framehaul_server.rpc.synthetic import make_latents
from framehaul_server.rpc.trace import RecordKernels, Tracing
from framehaul_server.session.connection import Connection, Request
from framehaul_server.session.decoding import WorkerOpener
from framehaul_server.session.detached import ResumableSessions
from framehaul_server.session.session import Session

LARGE: Final = frozenset({*(f"/{wire.SERVICE}/{method}" for method in ("Stream", "Render")), highlights.METHOD})
"""Methods whose requests have latents, or videos."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Call:
    """One call; its claim may come from a session that it resumes, and stays with one that outlives it."""

    context: Context
    record: SessionRecord
    claim: Claim | None = None
    unread_by: Tenant | None = None
    """Whose call it is, once its session is done with it."""


class FrameService:
    """Serves sessions and tells about the server."""

    def __init__(
        self,
        *,
        worker: WorkerOpener,
        identify: Identify,
        admission: Admission,
        reading: Reading,
        unread_calls: UnreadCalls,
        rules: SessionRules,
        recorder: Recorder,
        record_kernels: RecordKernels,
        locate: Callable[[], pb.LocateResponse],
        info: Callable[[], pb.ServerInfo],
    ) -> None:
        """Serve those whom `identify` knows with `worker`; `locate` and `info` make the answers that tell of it."""
        self._worker = worker
        self._identify = identify
        self._admission = admission
        self._reading = reading
        self._rules = rules
        self._recorder = recorder
        self._locate = locate
        self._info = info
        self._end_span = open_spans()
        self._tracing = Tracing(recorder, record_kernels=record_kernels, info=info, sessions=self.views)
        self._sessions: set[Session] = set()
        """Served or detached."""
        self._unread_calls = unread_calls
        self._resumable = ResumableSessions(rules.resume_window_s, on_dropped=self._drop)

    def handler(self) -> grpc.GenericRpcHandler:
        """What a `grpc.aio.server` takes; without (de)serializers, so that bytes pass untouched.

        `Render` is a stream's handler, for which gRPC reads nothing by itself.
        """
        return grpc.method_handlers_generic_handler(
            wire.SERVICE,
            {
                "Stream": grpc.stream_stream_rpc_method_handler(self.stream),
                "Render": grpc.stream_stream_rpc_method_handler(self.render),
                "Locate": grpc.unary_unary_rpc_method_handler(self.locate),
                "GetServerInfo": grpc.unary_unary_rpc_method_handler(self.get_server_info),
                "Trace": grpc.unary_stream_rpc_method_handler(self.trace),
            },
        )

    def drain(self, grace_s: float) -> None:
        """Refuse new and queued sessions, tell running ones that `grace_s` are left, keep none without a connection."""
        self._admission.close("the server is draining: open the session elsewhere")
        self._resumable.drop_detached()
        for session in self._sessions:
            session.drain(grace_s)

    def worker_lost(self) -> None:
        """Let new sessions wait for the next worker, in the queue."""
        self._admission.pause("the worker is restarting; try again")

    def worker_ready(self) -> None:
        """Let the running sessions go on with a new worker, and then those begin that wait for it."""
        for session in list(self._sessions):
            session.worker_ready()
        self._admission.pause(None)

    def fail_sessions(self, reason: str) -> None:
        """End the running sessions, and those that wait for a place, with UNAVAILABLE."""
        self._admission.close(reason)
        self._resumable.drop_detached()
        for session in self._sessions:
            session.fail(Unavailable(reason))

    def views(self) -> list[SessionView]:
        """The sessions that are served or detached, for operators."""
        return [session.view() for session in self._sessions]

    def show_frames(self, number: int, look: Look) -> None:
        """Let `look` see frames of a session, if there is one with this number."""
        for session in self._sessions:
            if session.time_keeper.number == number:
                session.show(look)

    async def stream(self, _requests: object, context: Context) -> None:
        """Latents in, frames out."""
        await self._serve("Stream", context, StreamConnection(context))

    async def render(self, _requests: object, context: Context) -> None:
        """One request, frames out."""
        await self._serve("Render", context, RenderConnection(context))

    async def locate(self, raw: bytes, context: Context) -> bytes:
        """Name this server."""

        async def answer() -> bytes:
            caller = self._caller(context, record)
            request = wire.split(raw, pb.LocateRequest).header
            if request.session_id:
                self._resumable.check(request.session_id, caller)
            else:
                self._admission.check_open()
            find_model(request.model, self._rules.opening.specs, field="model")
            return self._locate().SerializeToString()

        record = new_record("Locate", context)
        return await guard(context, record, answer())

    async def get_server_info(self, raw: bytes, context: Context) -> bytes:
        """Tell what this server has."""

        async def answer() -> bytes:
            caller = self._caller(context, record)
            wire.split(raw, pb.GetServerInfoRequest)
            return told_to(caller, self._info()).SerializeToString()

        record = new_record("GetServerInfo", context)
        return await guard(context, record, answer())

    async def trace(self, raw: bytes, context: Context) -> None:
        """Tell what happens, for a while."""

        async def tell() -> None:
            caller = self._caller(context, record)
            request = wire.split(raw, pb.TraceRequest).header
            await self._tracing.run(request, caller.tenant, StreamConnection(context))

        record = new_record("Trace", context)
        await guard(context, record, tell())

    async def _serve(self, method: str, context: Context, connection: Connection) -> None:
        call = _Call(context, new_record(method, context))
        try:
            await guard(context, call.record, self._session(call, connection))
        finally:
            if call.claim is not None:
                self._admission.release(call.claim)
            if call.unread_by is not None:
                self._unread_calls.end(call.unread_by)
            self._recorder.ended(tenant=call.record.tenant, cause=call.record.cause, lack=call.record.lack)
            self._end_span(call.record, context.invocation_metadata() or ())
            _log.info("%s", call.record.line())

    async def _session(self, call: _Call, connection: Connection) -> None:
        caller = self._caller(call.context, call.record)
        first = await self._first(call, connection, caller)
        call.claim = self._admission.enter(caller.tenant, num_spare=self._resumable.count(caller))
        if first is None:
            raise OutOfOrder("the request stream ended before its first request")
        if first.header.open.resume.session_id:
            session = await self._resume(call, first, caller)
        else:
            connection, first = make_latents(connection, first, self._rules.opening)
            session = await self._open(call, first, caller, connection)
        del first  # the session has it, and lets go of its latents
        outcome = await session.run(connection)
        if outcome.detached:
            self._detach(call, session)
        else:
            self._sessions.discard(session)
            self._resumable.remove(session)
        # A client that doesn't read its status may take its time, and all that its session held is free.
        call.unread_by = caller.tenant
        if self._unread_calls.begin(caller.tenant) and call.claim is not None:
            self._admission.release(call.claim)
        if outcome.error is not None:
            raise outcome.error

    async def _first(self, call: _Call, connection: Connection, caller: Caller) -> Request | None:
        """A call's first request, read while there may be a place for it; a call that hasn't said anything has none."""
        self._admission.check_room(caller.tenant, num_spare=self._resumable.count(caller))
        most = most_read(caller.tenant, self._rules.max_request_bytes)
        reader = Reader(tenant=caller.tenant.name, connection=call.context.peer(), most=most)
        return await self._reading.read(reader, connection.read)

    async def _open(self, call: _Call, first: Request, caller: Caller, connection: Connection) -> Session:
        """A new session, once it has its place."""
        session = Session(first, self._worker, self._rules, call.record, caller, self._recorder)
        assert call.claim is not None, "every call has entered"
        self._admission.ask(
            call.claim,
            priority=session.request.opening.priority,
            asked_ns=session.request.opening.asked_ns,
            num_bytes=session.max_waiting_bytes,
            request_bytes=first.num_bytes,
        )
        if not call.claim.held:
            try:
                await session.wait_for_place(self._admission, call.claim, connection)
            finally:
                assert call.record.queued_s is not None, "it has waited"
                self._recorder.queue_s.observe(call.record.queued_s)
            self._admission.check_open()
        self._sessions.add(session)
        if session.request.resumable:
            self._resumable.add(session)
        return session

    async def _resume(self, call: _Call, first: Request, caller: Caller) -> Session:
        """A session that was opened before, with its place."""
        self._unread_calls.check(caller.tenant)
        session, claim = await self._resumable.take(first, caller)
        assert call.claim is not None, "every call has entered"
        self._admission.release(call.claim)
        call.claim = claim
        session.resume(first, call.record)
        self._recorder.totals.num_resumed += 1
        return session

    def _detach(self, call: _Call, session: Session) -> None:
        assert call.claim is not None, "that of the session"
        self._resumable.detach(session, call.claim)
        call.claim = None

    def _drop(self, session: Session, claim: Claim) -> None:
        """Take back what a session held that ended without a connection."""
        self._sessions.discard(session)
        self._admission.release(claim)

    def _caller(self, context: Context, record: SessionRecord) -> Caller:
        """Who calls; every handler asks first.

        Raises:
            NotAuthenticated: nobody known.
        """
        caller = self._identify(context.invocation_metadata() or ())
        record.tenant = caller.tenant.name
        return caller
