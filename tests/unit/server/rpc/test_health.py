import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from framehaul_pipeline.supervision.supervisor import WorkerState
from framehaul_server.rpc.health import Health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.asyncio
async def test_watchers_see_the_worker_come_go_and_the_server_drain() -> None:
    health = Health(["tiny"])
    server = grpc.aio.server()
    health.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await health.publish()
    await server.start()
    publishing = asyncio.create_task(health.run())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
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
    finally:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        await server.stop(None)
