"""Traces: what the server does, told while it does it. Runs on the event loop; without a trace nobody listens."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import InvalidInput, Lack, Overloaded
from framehaul_pipeline.link.messages import Kernels
from framehaul_server import logs
from framehaul_server.core.recorder import Event, Recorder
from framehaul_server.core.session_view import SessionView
from framehaul_server.core.tenants import Tenant
from framehaul_server.core.trace import EventQueue, event_message, kernels_message, session_message
from framehaul_server.errors import ClientStalled, NotPermitted
from framehaul_server.session.connection import Connection

MAX_TRACES: Final = 4
"""At a time."""
SECONDS: Final = (1, 300)
"""The shortest and the longest."""
_INTERVAL_S: Final = 0.2
"""Between responses."""
_EVENTS_TO_A_MESSAGE: Final = 1000
KERNELS_S: Final = 10
"""The longest with kernels: there are ten thousand a second, and more."""
_GRACE_S: Final = 10.0
"""For the client to read the rest."""
_KERNELS_GRACE_S: Final = 60.0
"""For the worker to begin, and to tell all of them."""
RecordKernels = Callable[[float, Callable[[], None]], Coroutine[None, None, list[Kernels]]]
"""For so many seconds, from the call of the other argument on."""
_RETRY_AFTER_S: Final = 10.0

_log = logging.getLogger(__name__)


class Tracing:
    """The traces of one server."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        record_kernels: RecordKernels,
        info: Callable[[], pb.ServerInfo],
        sessions: Callable[[], Iterable[SessionView]],
    ) -> None:
        """Tell what `recorder` and `record_kernels` hear; the others say what there is now."""
        self._recorder = recorder
        self._record_kernels = record_kernels
        self._info = info
        self._sessions = sessions
        self._num_running = 0

    async def run(self, request: pb.TraceRequest, tenant: Tenant, connection: Connection) -> None:
        """Tell `tenant` for as long as it asks for.

        Cancellation: ends the trace.

        Raises:
            NotPermitted: it may not watch.
            InvalidInput: that is too long, or too short.
            Overloaded: there are too many traces already.
            ClientStalled: the client doesn't read.
            ConnectionLost: the client is gone.
        """
        if not tenant.watch:
            raise NotPermitted(f"tenant {tenant.name} may not trace: watch = true in the tokens' file lets it")
        low, high = SECONDS
        if not (math.isfinite(request.seconds) and low <= request.seconds <= high):
            raise InvalidInput("seconds", f"{request.seconds:g}", f"{low}..{high}")
        if request.kernels and request.seconds > KERNELS_S:
            raise InvalidInput("seconds", f"{request.seconds:g}", f"{low}..{KERNELS_S} with kernels")
        if self._num_running == MAX_TRACES:
            reason = f"{MAX_TRACES} traces are running: no more at a time"
            raise Overloaded(reason, Lack.CALLS, retry_after_s=_RETRY_AFTER_S)
        self._num_running += 1
        trace = _Trace(self._info, self._sessions, connection)
        try:
            async with asyncio.timeout(request.seconds + _GRACE_S + request.kernels * _KERNELS_GRACE_S):
                if request.kernels:
                    await self._run_with_kernels(trace, request.seconds)
                else:
                    await self._run(trace, request.seconds)
        except TimeoutError:
            raise ClientStalled("the trace isn't read") from None
        finally:
            self._num_running -= 1
            dropped = trace.queue.num_dropped
            _log.info("%s", logs.line("trace", tenant=tenant.name, events=trace.num_told, dropped=dropped))

    async def _run(self, trace: _Trace, seconds: float) -> None:
        self._recorder.charge_time()  # what is told began with the trace
        with self._recorder.listening(trace.hear):
            await trace.run(seconds, self._recorder.charge_time)

    async def _run_with_kernels(self, trace: _Trace, seconds: float) -> None:
        begun = asyncio.Event()
        recording = asyncio.ensure_future(self._record_kernels(seconds, begun.set))
        recording.add_done_callback(lambda _: begun.set())
        try:
            await begun.wait()
            if not recording.done():  # else it has failed
                await self._run(trace, seconds)
            for kernels in await recording:
                await trace.tell(pb.TraceResponse(kernels=kernels_message(kernels)))
        finally:
            recording.cancel()
            await asyncio.wait([recording])


class _Trace:
    """One of them."""

    def __init__(
        self, info: Callable[[], pb.ServerInfo], sessions: Callable[[], Iterable[SessionView]], connection: Connection
    ) -> None:
        self._info = info
        self._sessions = sessions
        self._connection = connection
        self.queue = EventQueue()
        self.num_told = 0
        self._known: set[int] = set()
        self._new: list[pb.TraceSession] = []
        """Sessions that events name, and nobody was told of: they may be gone at the next look."""

    def hear(self, event: Event) -> None:
        """Queue an event."""
        self.queue.put(event)
        if event.session not in self._known:
            self._known.add(event.session)
            self._new += [session_message(each) for each in self._sessions() if each.number == event.session]

    async def run(self, seconds: float, charge_time: Callable[[], object]) -> None:
        clock = asyncio.get_running_loop().time
        end_s = clock() + seconds
        await self._connection.send_headers()
        info = self._info()
        await self.tell(pb.TraceResponse(started=pb.TraceStarted(version=info.version, device=info.device)))
        while (left_s := end_s - clock()) > 0:
            await self._tell_events()
            await asyncio.sleep(min(_INTERVAL_S, left_s))
        charge_time()
        await self._tell_events()

    async def _tell_events(self) -> None:
        """All that happened, and then what there is now."""
        while events := self.queue.take(_EVENTS_TO_A_MESSAGE):
            sessions, self._new = self._new, []
            await self.tell(pb.TraceResponse(sessions=sessions, events=map(event_message, events)))
            self.num_told += len(events)
        views = [each for each in self._sessions() if each.number]  # those without have not begun
        self._known.update(each.number for each in views)
        await self.tell(pb.TraceResponse(sessions=map(session_message, views), load=self._info().load))

    async def tell(self, response: pb.TraceResponse) -> None:
        """Send a response."""
        response.now_ns, response.events_dropped = time.monotonic_ns(), self.queue.num_dropped
        await self._connection.write(response.SerializeToString())
