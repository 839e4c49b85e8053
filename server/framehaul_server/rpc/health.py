"""grpc.health.v1: SERVING exactly while a worker is ready and the server isn't draining. Runs on the event loop.

Known by the names `""`, the service's own, and `framehaul.v1.FrameService/MODEL` for each model that is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from framehaul.wire import SERVICE
from framehaul_pipeline.supervision.supervisor import WorkerState

_WHOLE: Final = ("", SERVICE)


class _Servicer(health.aio.HealthServicer):
    """gRPC's own, and `List`, which that leaves out: each such call would fill the log with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: dict[str, health_pb2.HealthCheckResponse] = {}

    async def List(self, _request: object, _context: object) -> Message:
        """All services and how they are."""
        # Not in types-grpcio-health-checking.
        response: Message = health_pb2.HealthListResponse(statuses=self.statuses)  # type: ignore[attr-defined]
        return response


class Health:
    """Reports the state of worker and server; `run` passes changes on to watchers."""

    def __init__(self, models: Iterable[str]) -> None:
        """Start as NOT_SERVING, for all of them and each of `models`."""
        self._services = (*_WHOLE, *(f"{SERVICE}/{model}" for model in models))
        self._servicer = _Servicer()
        self._worker_ready = False
        self._draining = False
        self._changed = asyncio.Event()
        self._changed.set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def worker_changed(self, state: WorkerState) -> None:
        """Note the worker's new state."""
        self._worker_ready = state is WorkerState.READY
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
        serving = self._worker_ready and not self._draining
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            self._servicer.statuses[service] = health_pb2.HealthCheckResponse(status=status)
            await self._servicer.set(service, status)
