"""grpc.health.v1: SERVING exactly while a worker is ready and the server isn't draining. Runs on the event loop.

Known by the names `""`, the service's own, and `framehaul.v1.FrameService/MODEL` for each model that is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from framehaul.wire import SERVICE
from framehaul_pipeline.errors import Lack, Overloaded
from framehaul_pipeline.supervision.supervisor import WorkerState
from framehaul_server.rpc.boundary import guard, new_record

MOST_WATCHERS: Final = 256
"""A watcher needs no token, never ends by itself, and keeps its connection open."""

_RETRY_AFTER_S: Final = 10.0
_WHOLE: Final = ("", SERVICE)


class _Servicer(health.aio.HealthServicer):
    """gRPC's own, with a limit on `Watch`, and with `List`, which it leaves to a traceback in the log."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: dict[str, health_pb2.HealthCheckResponse] = {}
        self._num_watchers = 0

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """The status of a service, and each change of it, until the client leaves."""
        await guard(context, new_record("Watch", context), self._check_room())
        self._num_watchers += 1
        try:
            await super().Watch(request, context)
        finally:
            self._num_watchers -= 1

    async def _check_room(self) -> None:
        if self._num_watchers >= MOST_WATCHERS:
            raise Overloaded(
                f"Watch: at most {MOST_WATCHERS} such calls at a time, of all clients together: Check now and then",
                Lack.CALLS,
                retry_after_s=_RETRY_AFTER_S,
            )

    async def List(self, _request: object, _context: object) -> Message:
        """All services and how they are."""
        # Not in types-grpcio-health-checking.
        response: Message = health_pb2.HealthListResponse(statuses=self.statuses)  # type: ignore[attr-defined]
        return response


class Health:
    """Reports the state of worker and server; `run` passes changes on to watchers."""

    def __init__(self, models: Iterable[str]) -> None:
        """Start as NOT_SERVING, for all of them and each of `models`."""
        self._models = dict.fromkeys(models)
        self._ready: frozenset[str] = frozenset()
        self._servicer = _Servicer()
        self._draining = False
        self._changed = asyncio.Event()
        self._changed.set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def worker_changed(self, state: WorkerState) -> None:
        """Note the worker's new state."""
        self.models_ready(self._models if state is WorkerState.READY else ())

    def models_ready(self, models: Iterable[str]) -> None:
        """Note for which models there is a worker, and for no others; those that are new are known from now on."""
        self._ready = frozenset(models)
        self._models.update(dict.fromkeys(sorted(self._ready)))
        self._changed.set()

    def drain(self) -> None:
        """NOT_SERVING from now on."""
        self._draining = True
        self._changed.set()

    async def run(self) -> None:
        """Publish each change, for ever.

        Cancellation: the way to end it.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.publish()

    async def publish(self) -> None:
        """Publish the present state."""
        ready = frozenset() if self._draining else self._ready
        serving = {service: bool(ready) for service in _WHOLE}
        serving |= {f"{SERVICE}/{model}": model in ready for model in self._models}
        for service, serves in serving.items():
            status = health_pb2.HealthCheckResponse.SERVING if serves else health_pb2.HealthCheckResponse.NOT_SERVING
            self._servicer.statuses[service] = health_pb2.HealthCheckResponse(status=status)
            await self._servicer.set(service, status)
