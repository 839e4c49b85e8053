import asyncio
import time

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.link.messages import Kernels
from framehaul_server.core.recorder import Event, Kind
from framehaul_server.core.tenants import Tenant
from framehaul_server.rpc import trace
from framehaul_server.session.decoding import Decoding
from tests.support.driven_service import EXPLICIT, Call, Server, context_of, serving, settle, status
from tests.support.fakes import FakeContext, as_context, latents, request

pytestmark = pytest.mark.asyncio
OWNER = Tenant(name="owner", watch=True)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace in a moment."""
    monkeypatch.setattr(trace, "SECONDS", (0, 300))
    monkeypatch.setattr(trace, "_INTERVAL_S", 0.01)


def start(server: Server, seconds: float = 0.05, tenant: str = "owner") -> Call:
    context = context_of(tenant)
    raw = pb.TraceRequest(seconds=seconds).SerializeToString()
    task = asyncio.ensure_future(server.service.trace(raw, as_context(context)))
    server.tasks.append(task)
    return context, task


class Told(FakeContext):
    """A client that keeps what it is told, or doesn't read."""

    def __init__(self, *, reads: bool = True) -> None:
        super().__init__()
        self.metadata = (("tenant", "owner"),)
        self.told: list[pb.TraceResponse] = []
        self.reads = reads

    async def write(self, message: bytes) -> None:
        if not self.reads:
            await asyncio.Event().wait()
        self.told.append(pb.TraceResponse.FromString(message))


async def run(server: Server, context: Told, seconds: float) -> list[pb.TraceResponse]:
    raw = pb.TraceRequest(seconds=seconds).SerializeToString()
    await server.service.trace(raw, as_context(context))
    return context.told


async def test_a_trace_tells_of_a_session_before_its_first_event() -> None:
    """Also of one that ends before anybody looks again; times rise from response to response."""
    async with serving(OWNER) as server:
        context = Told()
        tracing = asyncio.ensure_future(run(server, context, 0.1))
        await settle()
        session, _ = await server.connect(request(latents(2), open=EXPLICIT))
        await session.responded(2)
        told = await tracing
        assert told[0].HasField("started")
        known: set[int] = set()
        kinds = set()
        for response in told:
            known |= {each.number for each in response.sessions}
            assert {each.session for each in response.events} <= known
            kinds |= {each.kind for each in response.events}
        assert known == {1}
        assert kinds >= {pb.TRACE_EVENT_KIND_LATENTS, pb.TRACE_EVENT_KIND_SENT, pb.TRACE_EVENT_KIND_CHUNK}
        assert [each.now_ns for each in told] == sorted(each.now_ns for each in told)


@pytest.mark.parametrize(
    ("tenant", "seconds", "code", "text"),
    [
        ("guest", 1, grpc.StatusCode.PERMISSION_DENIED, "tenant guest may not trace: watch = true"),
        ("owner", -1, grpc.StatusCode.INVALID_ARGUMENT, "seconds=-1: must be 0..300"),
        ("owner", 301, grpc.StatusCode.INVALID_ARGUMENT, "seconds=301: must be 0..300"),
        ("owner", float("nan"), grpc.StatusCode.INVALID_ARGUMENT, "seconds=nan: must be 0..300"),
    ],
)
async def test_who_may_not_trace_or_asks_for_too_much_is_refused(
    tenant: str, seconds: float, code: grpc.StatusCode, text: str
) -> None:
    async with serving(OWNER) as server:
        found, details = await status(*start(server, seconds, tenant))
        assert found is code
        assert text in details


async def test_a_few_traces_run_at_a_time_and_nobody_listens_after_them() -> None:
    """One that is over makes room, however it ended."""
    async with serving(OWNER) as server:
        running = [start(server, 300) for _ in range(trace.MAX_TRACES)]
        await settle()
        code, details = await status(*start(server, 1))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "4 traces are running" in details
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
        assert not server.recorder._listeners
        context = Told()
        assert await run(server, context, 0)


async def test_who_does_not_read_loses_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is wanted by others."""
    monkeypatch.setattr(trace, "_GRACE_S", 0.0)
    async with serving(OWNER) as server:
        context = Told(reads=False)
        raw = pb.TraceRequest(seconds=0.01).SerializeToString()
        task = asyncio.ensure_future(server.service.trace(raw, as_context(context)))
        code, details = await status(context, task)
        assert code is grpc.StatusCode.ABORTED
        assert "isn't read" in details
        assert not server.recorder._listeners


async def test_latents_came_before_the_worker_had_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be at them before the server has noted that they came."""
    handed_ns: list[int] = []
    send_latent = Decoding.send_latent

    def send(decoding: Decoding, latent: memoryview) -> None:
        handed_ns.append(time.monotonic_ns())
        send_latent(decoding, latent)

    monkeypatch.setattr(Decoding, "send_latent", send)
    async with serving(OWNER) as server:
        events: list[Event] = []
        with server.recorder.listening(events.append):
            session, _ = await server.connect(request(latents(2), open=EXPLICIT))
            await session.responded(2)
    (came,) = [each for each in events if each.kind is Kind.LATENTS]
    assert (came.first, came.count) == (0, 2)
    assert came.start_ns <= handed_ns[0]


KERNELS = [
    Kernels(names=("conv", "_fuse"), rows=((0, 10, 5, 7), (1, 15, 2, 7)), last=False),
    Kernels(names=(), rows=(), last=True, left_out=3),
]


async def test_kernels_come_at_the_end() -> None:
    """All that the worker heard, after what happened meanwhile."""
    async with serving(OWNER) as server:
        server.worker.kernels = KERNELS
        context = Told()
        raw = pb.TraceRequest(seconds=0.02, kernels=True).SerializeToString()
        await server.service.trace(raw, as_context(context))
        assert context.told[0].HasField("started")
        assert [each.HasField("kernels") for each in context.told[-3:]] == [False, True, True]
        first, last = (each.kernels for each in context.told[-2:])
        assert [(first.names[name], at) for name, at in zip(first.name, first.start_ns, strict=True)] == [
            ("conv", 10),
            ("_fuse", 15),
        ]
        assert (list(first.duration_ns), list(first.stream), last.left_out) == ([5, 2], [7, 7], 3)


@pytest.mark.parametrize(
    ("seconds", "code", "text"),
    [
        (11, grpc.StatusCode.INVALID_ARGUMENT, "seconds=11: must be 0..10 with kernels"),
        (1, grpc.StatusCode.UNAVAILABLE, "can't record kernels"),
    ],
)
async def test_kernels_that_cant_be_recorded_are_refused(seconds: float, code: grpc.StatusCode, text: str) -> None:
    """Before anything is told, and the trace's place is free again."""
    async with serving(OWNER) as server:
        context = Told()
        raw = pb.TraceRequest(seconds=seconds, kernels=True).SerializeToString()
        found, details = await status(context, asyncio.ensure_future(server.service.trace(raw, as_context(context))))
        assert found is code
        assert text in details
        assert not context.told
        assert not server.recorder._listeners
