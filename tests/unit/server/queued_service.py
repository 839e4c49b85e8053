"""A service whose sessions wait for their place, and what a test sees of its calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope
from framehaul_server.admission import Admission
from framehaul_server.callers import Callers
from framehaul_server.lingering import LingeringCalls
from framehaul_server.service import Context, FrameService, ServiceIdentity
from framehaul_server.tenants import Caller, Tenant
from tests.unit.server.fakes import Aborted, FakeContext, FakeWorker, opening, rules

EXPLICIT = opening(mode=pb.MODE_EXPLICIT, window_frames=64)
RESUMABLE = opening(mode=pb.MODE_EXPLICIT, resume=pb.Resume(), window_frames=64)


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


class NamedTenants:
    """The token is the tenant's name."""

    def __init__(self, *tenants: Tenant) -> None:
        self._tenants = {tenant.name: tenant for tenant in (*tenants, Tenant(name="everyone"))}

    def identify(self, metadata: tuple[tuple[str, str], ...]) -> Caller:
        return Caller(tenant=self._tenants[dict(metadata).get("tenant", "everyone")])


class Server:
    """A service whose calls are driven by the test."""

    def __init__(
        self,
        *tenants: Tenant,
        max_sessions: int = 1,
        max_queued: int = 8,
        max_queued_bytes: int = 1 << 20,
        timeout_s: float = 5.0,
        stall_timeout_s: float = 600.0,
        resume_window_s: float = 5.0,
    ) -> None:
        self.worker = FakeWorker()
        self.admission = Admission(max_sessions, max_queued=max_queued, max_queued_bytes=max_queued_bytes)
        self.service = FrameService(
            worker=self.worker,
            callers=cast(Callers, NamedTenants(*tenants)),
            admission=self.admission,
            lingering=LingeringCalls(max_sessions),
            rules=rules(stall_timeout_s=stall_timeout_s),
            first_request_timeout_s=timeout_s,
            resume_window_s=resume_window_s,
            identity=ServiceIdentity(target="farm:50051", epoch=7),
            info=pb.ServerInfo,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(
        self, *requests: Envelope[pb.StreamRequest], tenant: str = "everyone"
    ) -> tuple[FakeContext, "asyncio.Task[None]"]:
        context = FakeContext()
        context.metadata = (("tenant", tenant),)
        task = asyncio.ensure_future(self.service.stream(None, cast(Context, context)))
        self.tasks.append(task)
        for each in requests:
            context.send(each)
        await settle()
        return context, task


@asynccontextmanager
async def serving(*tenants: Tenant, **settings: float) -> AsyncIterator[Server]:
    """At the end nothing is held, whatever the test did."""
    before = asyncio.all_tasks()
    server = Server(*tenants, **settings)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        server.service.drain(0.0)
        await settle()
        assert asyncio.all_tasks() <= before
        assert (server.admission.num_sessions, server.admission.num_queued) == (0, 0)
        assert server.admission.idle.is_set()


async def leave(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def told(context: FakeContext) -> list[int]:
    """Positions, in order; they come before everything else."""
    kinds = [response.header.HasField("queued") for response in context.responses]
    assert kinds == sorted(kinds, reverse=True)
    return [response.header.queued.position for response in context.responses if response.header.HasField("queued")]


def is_open(context: FakeContext) -> bool:
    return any(response.header.HasField("opened") for response in context.responses)


async def status(context: FakeContext, task: "asyncio.Task[None]") -> tuple[grpc.StatusCode, str]:
    with pytest.raises(Aborted):
        await asyncio.wait_for(task, 5)
    assert context.aborted is not None
    return context.aborted[:2]
