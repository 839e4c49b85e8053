import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from framehaul_pipeline.supervision.supervisor import WorkerState
from framehaul_server.rpc import health as limits
from framehaul_server.rpc.health import Health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Health, str]]:
    health = Health(["tiny"])
    server = grpc.aio.server()
    health.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await health.publish()
    await server.start()
    try:
        yield health, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.asyncio
async def test_watchers_see_the_worker_come_go_and_the_server_drain() -> None:
    async with serving() as (health, target), grpc.aio.insecure_channel(target) as channel:
        publishing = asyncio.create_task(health.run())
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "framehaul.v1.FrameService", "framehaul.v1.FrameService/tiny"):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == NOT_SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        seen = [(await watch.read()).status]
        for change in (WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY, None):
            if change is None:
                health.drain()
            else:
                health.worker_changed(change)
            seen.append((await watch.read()).status)
        assert seen == [NOT_SERVING, SERVING, NOT_SERVING, SERVING, NOT_SERVING]
        health.worker_changed(WorkerState.READY)
        await health.publish()
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        watch.cancel()
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)


@pytest.mark.asyncio
async def test_watchers_are_few_and_checks_are_answered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has ended one may start another."""
    monkeypatch.setattr(limits, "MOST_WATCHERS", 1)
    async with serving() as (_, target), grpc.aio.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        first = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert (await first.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="Watch: at most 1 such calls at a time") as refusal:
            await stub.Watch(health_pb2.HealthCheckRequest(), timeout=60).read()
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("grpc-retry-pushback-ms", "10000") in tuple(refusal.value.trailing_metadata())
        assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)).status == NOT_SERVING
        first.cancel()
        status = None
        while status is None:
            third = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            with contextlib.suppress(grpc.aio.AioRpcError):
                status = (await third.read()).status
        assert status == NOT_SERVING
        third.cancel()
