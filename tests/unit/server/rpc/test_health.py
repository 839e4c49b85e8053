import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
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


async def watch(stub: Any) -> tuple[Any, grpc.aio.AioRpcError | None]:
    """A call that is watching, or why it isn't."""
    call = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    try:
        assert (await call.read()).status == NOT_SERVING
    except grpc.aio.AioRpcError as error:
        return call, error
    return call, None


@pytest.mark.asyncio
async def test_watchers_are_few_and_checks_are_answered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a connection and of all together; who has ended one may start another."""
    monkeypatch.setattr(limits, "MOST_OF_A_CONNECTION", 2)
    monkeypatch.setattr(limits, "MOST_WATCHERS", 3)
    async with serving() as (_, target), AsyncExitStack() as stack:
        own_connection = (("grpc.use_local_subchannel_pool", 1),)
        stubs: list[Any] = [
            health_pb2_grpc.HealthStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(target, options=own_connection))
            )
            for _ in range(3)
        ]
        calls = []
        for index, whose in ((0, None), (0, None), (0, "one connection"), (1, None), (2, "all clients together")):
            call, error = await watch(stubs[index])
            if whose is None:
                assert error is None
                calls.append(call)
                continue
            assert error is not None
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            most = {"one connection": 2, "all clients together": 3}[whose]
            assert (error.details() or "").startswith(f"Watch: {whose} may have at most {most} such calls at a time")
            assert ("grpc-retry-pushback-ms", "10000") in tuple(error.trailing_metadata())
            assert (await stubs[index].Check(health_pb2.HealthCheckRequest(), timeout=20)).status == NOT_SERVING
        calls.pop(0).cancel()
        async with asyncio.timeout(20):
            while True:
                call, error = await watch(stubs[2])
                if error is None:
                    break
        for each in (*calls, call):
            each.cancel()
