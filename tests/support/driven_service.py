"""A service whose calls are driven by the test, with fakes around it, and what a client sees of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import PipelineError
from framehaul_server.access.callers import Identify, Metadata
from framehaul_server.admission.places import Admission
from framehaul_server.admission.reading import Reading
from framehaul_server.admission.unread_calls import UnreadCalls
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.tenants import Caller, Tenant
from framehaul_server.rpc.service import FrameService
from framehaul_server.session.connection import Request
from tests.support.fakes import Aborted, FakeContext, FakeWorker, as_context, opening, request, rules
from tests.support.waiting import eventually

EXPLICIT = opening(mode=pb.MODE_EXPLICIT, window_frames=64)
RESUMABLE = opening(mode=pb.MODE_EXPLICIT, resume=pb.Resume(), window_frames=64)
Call = tuple[FakeContext, "asyncio.Task[None]"]


async def settle() -> None:
    """Let everything run that can run without news from outside."""
    for _ in range(60):
        await asyncio.sleep(0)


def by_name(*tenants: Tenant) -> Identify:
    """The token is the tenant's name."""
    known = {tenant.name: tenant for tenant in tenants}

    def identify(metadata: Metadata) -> Caller:
        name = str(dict(metadata).get("tenant", "everyone"))
        return Caller(tenant=known.get(name) or Tenant(name=name))

    return identify


class Server:
    """The service, its worker, and all calls that were made."""

    def __init__(
        self,
        *tenants: Tenant,
        worker: FakeWorker | None = None,
        max_sessions: int = 1,
        max_queued: int = 8,
        max_queued_bytes: int = 1 << 20,
        timeout_s: float = 5.0,
        grace_s: float = 5.0,
        most_read: int = 8,
        stall_timeout_s: float = 600.0,
        resume_window_s: float = 30.0,
        journal_bytes: int = 1 << 20,
    ) -> None:
        self.worker = worker or FakeWorker()
        self.admission = Admission(max_sessions, max_queued=max_queued, max_queued_bytes=max_queued_bytes)
        self.unread_calls = UnreadCalls(max_sessions)
        self.recorder = Recorder(0)
        self.service = FrameService(
            worker=self.worker,
            identify=by_name(*tenants),
            admission=self.admission,
            reading=Reading(most_read, grace_s=grace_s, timeout_s=timeout_s),
            unread_calls=self.unread_calls,
            rules=rules(
                spec=self.worker.specs[0],
                stall_timeout_s=stall_timeout_s,
                resume_window_s=resume_window_s,
                journal_bytes=journal_bytes,
            ),
            recorder=self.recorder,
            record_kernels=self.worker.record_kernels,
            locate=lambda: pb.LocateResponse(target="farm:50051", epoch=7, lease_ms=1),
            info=lambda: pb.ServerInfo(version="1", models=[pb.ModelInfo(rates=[pb.MeasuredRate()])]),
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(self, *requests: Request, tenant: str = "everyone") -> Call:
        """Call, and send one request after the other."""
        context, task = self.call(tenant)
        await settle()
        for each in requests:
            context.send(each)
            await settle()
        return context, task

    def call(self, tenant: str = "everyone", method: str = "stream") -> Call:
        """Call; the handler begins at the loop's next turn."""
        context = context_of(tenant)
        handler = {"stream": self.service.stream, "render": self.service.render}[method]
        task = asyncio.ensure_future(handler(None, as_context(context)))
        # As in gRPC, a read that is still under way ends with the call.
        task.add_done_callback(lambda _: context.half_close())
        self.tasks.append(task)
        return context, task

    async def replace_worker(self, *deaths: PipelineError) -> None:
        """One worker after another dies, and the next one is there at once."""
        for death in deaths:
            self.worker.die(death)
            self.service.worker_ready()
            await settle()

    async def resume(
        self, session_id: bytes, next_frame: int = 0, *, tenant: str = "everyone", **changes: object
    ) -> Call:
        """Call for a session that was opened as `RESUMABLE`."""
        return await self.connect(resuming(session_id, next_frame, **changes), tenant=tenant)

    async def locate(self, session_id: bytes, *, tenant: str = "everyone") -> str | grpc.StatusCode:
        """The server that the session is on, or why it isn't told."""
        context = context_of(tenant)
        asked = pb.LocateRequest(session_id=session_id).SerializeToString()
        try:
            return pb.LocateResponse.FromString(await self.service.locate(asked, as_context(context))).target
        except Aborted:
            assert context.aborted is not None
            return context.aborted[0]


@asynccontextmanager
async def serving(*tenants: Tenant, **settings: object) -> AsyncIterator[Server]:
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
        # A real gRPC server's own tasks end when its threads say so.
        await eventually(lambda: asyncio.all_tasks() <= before, asyncio.all_tasks)
        assert (server.admission.num_sessions, server.admission.num_queued) == (0, 0)
        assert server.admission.idle.is_set()
        assert all(handle.closed for handle in server.worker.handles)


def context_of(tenant: str) -> FakeContext:
    context = FakeContext()
    context.metadata = (("tenant", tenant),)
    return context


def resuming(session_id: bytes, next_frame: int = 0, **changes: object) -> Request:
    again = pb.Open()
    again.CopyFrom(RESUMABLE)
    again.MergeFrom(pb.Open(resume=pb.Resume(session_id=session_id, next_frame=next_frame), **changes))  # type: ignore[arg-type]
    return request(open=again)


async def leave(task: "asyncio.Task[None]") -> None:
    """What grpc.aio does to the handler of a client that left, or whose connection broke."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def told(context: FakeContext) -> list[int]:
    """Positions, in order; they come before everything else."""
    kinds = [response.header.HasField("queued") for response in context.responses]
    assert kinds == sorted(kinds, reverse=True)
    return [response.header.queued.position for response in context.responses if response.header.HasField("queued")]


def is_open(context: FakeContext) -> bool:
    return any(response.header.HasField("opened") for response in context.responses)


def opened(context: FakeContext) -> pb.Opened:
    """Of a session that didn't wait."""
    return context.responses[0].header.opened


def first_frames(context: FakeContext) -> list[int]:
    return [each.header.frames.first_frame for each in context.responses if each.header.frames.num_frames]


async def status(context: FakeContext, task: "asyncio.Task[None]") -> tuple[grpc.StatusCode, str]:
    with pytest.raises(Aborted):
        await asyncio.wait_for(task, 60)
    assert context.aborted is not None
    return context.aborted[:2]
