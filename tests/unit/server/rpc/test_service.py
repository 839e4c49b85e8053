import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Never

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import AtWork, WorkerLost
from framehaul_server.admission.places import Admission
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.core.packing import Outgoing
from framehaul_server.core.tenants import Tenant
from framehaul_server.rpc.service import FrameService
from framehaul_server.rpc.status import Trailers
from tests.support.driven_service import EXPLICIT, Server, is_open, serving, settle, status
from tests.support.fakes import (
    FRAME_BYTES,
    Aborted,
    FakeContext,
    FakeWorker,
    as_context,
    frame,
    latents,
    opening,
    request,
)


def frame_service(
    worker: FakeWorker | None = None, *, max_sessions: int = 2, timeout_s: float = 5.0
) -> tuple[FrameService, Admission]:
    """A service without a queue."""
    server = Server(worker=worker, max_sessions=max_sessions, max_queued=0, timeout_s=timeout_s)
    return server.service, server.admission


@asynccontextmanager
async def streaming(service: FrameService) -> AsyncIterator[tuple[FakeContext, "asyncio.Task[None]"]]:
    context = FakeContext()
    task = asyncio.ensure_future(service.stream(None, as_context(context)))
    try:
        yield context, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.asyncio
async def test_stream_serves_a_session_and_gives_its_place_back() -> None:
    service, admission = frame_service()
    async with streaming(service) as (context, task):
        context.send(request(latents(2), open=opening()))
        await context.responded(1)
        assert admission.num_sessions == 1
        context.half_close()
        await task
        assert context.frames() == [frame(index) for index in range(8)]
        assert admission.num_sessions == 0


@pytest.mark.asyncio
async def test_render_serves_its_one_request() -> None:
    service, admission = frame_service()
    context = FakeContext()
    context.requests.put_nowait(pb.RenderRequest(open=opening(), latents=latents(2)).SerializeToString())
    await service.render(None, as_context(context))
    assert context.done() == pb.Done(num_frames=8, num_latents=2)
    assert admission.num_sessions == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("raw", "code", "text"),
    [
        (b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "number"),
        (pb.StreamRequest().SerializeToString(), grpc.StatusCode.FAILED_PRECONDITION, "must hold open"),
        (grpc.aio.EOF, grpc.StatusCode.FAILED_PRECONDITION, "ended before its first request"),
        (
            pb.StreamRequest(open=opening(model="wan")).SerializeToString(),
            grpc.StatusCode.NOT_FOUND,
            "open.model='wan'",
        ),
    ],
)
async def test_a_wrong_first_request_gets_its_status(raw: object, code: grpc.StatusCode, text: str) -> None:
    service, admission = frame_service()
    async with streaming(service) as (context, task):
        context.requests.put_nowait(raw)
        with pytest.raises(Aborted):
            await task
        assert context.aborted is not None
        assert context.aborted[0] is code
        assert text in context.aborted[1]
        assert admission.num_sessions == 0


@pytest.mark.asyncio
async def test_a_silent_client_is_ended() -> None:
    service, admission = frame_service(timeout_s=0.01)
    async with streaming(service) as (context, task):
        with pytest.raises(Aborted):
            await task
        assert context.aborted is not None
        assert context.aborted[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert admission.num_sessions == 0


@pytest.mark.asyncio
async def test_one_session_too_many_is_refused_at_once() -> None:
    """Before it says anything."""
    service, _ = frame_service(max_sessions=1)
    async with streaming(service) as (first, _):
        first.send(request(open=opening()))
        await first.responded(1)
        async with streaming(service) as (second, refused):
            with pytest.raises(Aborted):
                await refused
        assert second.aborted is not None
        code, _, trailers = second.aborted
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(trailers)["grpc-retry-pushback-ms"] == "1000"


@pytest.mark.asyncio
async def test_a_place_is_held_until_the_status_was_sent() -> None:
    """A client that doesn't read its status holds memory, so it must count."""

    class Stalled(FakeContext):
        async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Trailers = ()) -> Never:
            await self.open_gate.wait()
            await super().abort(code, details, trailing_metadata)

    service, admission = frame_service()
    context = Stalled()
    context.open_gate.clear()
    context.half_close()
    task = asyncio.ensure_future(service.stream(None, as_context(context)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert context.requests.empty()
    assert not admission.idle.is_set()
    context.open_gate.set()
    with pytest.raises(Aborted):
        await task
    assert admission.idle.is_set()


@pytest.mark.asyncio
async def test_draining_tells_running_sessions_and_refuses_new_ones() -> None:
    service, admission = frame_service()
    async with streaming(service) as (running, task):
        running.send(request(open=opening()))
        await running.responded(1)
        service.drain(2.0)
        await running.responded(2)
        assert running.responses[1].header.drain.grace_ms == 2000
        async with streaming(service) as (late, refused):
            with pytest.raises(Aborted):
                await refused
            assert late.aborted is not None
            assert late.aborted[0] is grpc.StatusCode.UNAVAILABLE
        running.send(request(latents(1)))
        running.half_close()
        await task
        assert admission.idle.is_set()


@pytest.mark.asyncio
async def test_a_session_that_was_only_about_to_begin_is_refused_too_when_the_server_drains() -> None:
    service, _ = frame_service()
    async with streaming(service) as (context, task):
        await asyncio.sleep(0)
        service.drain(2.0)
        context.send(request(open=opening()))
        with pytest.raises(Aborted):
            await task
        assert context.aborted is not None
        assert context.aborted[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.asyncio
async def test_a_session_that_ended_is_forgotten() -> None:
    worker = FakeWorker()
    service, _ = frame_service(worker)
    async with streaming(service) as (context, task):
        context.send(request(latents(1), open=opening()))
        context.half_close()
        await task
    session = weakref.ref(worker.handles.pop().events)
    await asyncio.sleep(0)
    gc.collect()
    assert session() is None


@pytest.mark.asyncio
async def test_sessions_can_be_failed_together() -> None:
    service, _ = frame_service()
    async with streaming(service) as (context, task):
        context.send(request(open=opening()))
        await context.responded(1)
        service.fail_sessions("its grace period is over")
        with pytest.raises(Aborted):
            await task
        assert context.aborted == (grpc.StatusCode.UNAVAILABLE, "its grace period is over", ())


@pytest.mark.asyncio
async def test_a_session_whose_worker_is_lost_goes_on_with_the_next_one() -> None:
    worker = FakeWorker()
    service, _ = frame_service(worker)
    async with streaming(service) as (context, task):
        context.send(request(latents(1), open=opening()))
        await context.responded(2)
        worker.die(WorkerLost(at_work=AtWork.ALONE))
        context.send(request(latents(1)))
        context.half_close()
        service.worker_ready()
        await task
        assert context.frames() == [frame(index) for index in range(8)]


@pytest.mark.asyncio
async def test_locate_names_this_server() -> None:
    service, _ = frame_service()
    raw = await service.locate(pb.LocateRequest(model="toy").SerializeToString(), as_context(FakeContext()))
    answer = pb.LocateResponse.FromString(raw)
    assert (answer.target, answer.epoch) == ("farm:50051", 7)
    assert answer.lease_ms > 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("given", "code"),
    [
        (pb.LocateRequest(), grpc.StatusCode.UNAVAILABLE),
        (pb.LocateRequest(session_id=b"x"), grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_locate_sends_no_new_session_to_a_draining_server(given: pb.LocateRequest, code: grpc.StatusCode) -> None:
    service, _ = frame_service()
    service.drain(1.0)
    context = FakeContext()
    with pytest.raises(Aborted):
        await service.locate(given.SerializeToString(), as_context(context))
    assert context.aborted is not None
    assert context.aborted[0] is code


@pytest.mark.asyncio
async def test_server_info_is_answered_and_malformed_bytes_are_refused() -> None:
    service, _ = frame_service()
    assert pb.ServerInfo.FromString(await service.get_server_info(b"", as_context(FakeContext()))).version == "1"
    context = FakeContext()
    with pytest.raises(Aborted):
        await service.get_server_info(b"\xff", as_context(context))
    assert context.aborted is not None
    assert context.aborted[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.asyncio
@pytest.mark.parametrize("silent_tenant", ["everyone", "other"])
@pytest.mark.parametrize("method", ["stream", "render"])
async def test_calls_that_say_nothing_take_no_place(method: str, silent_tenant: str) -> None:
    """Twice as many as there are places and places in the queue: who comes after them begins at once."""
    async with serving(max_sessions=8, max_queued=8, grace_s=0.0) as server:
        for number in range(32):
            context, _ = server.call(silent_tenant, method)
            context.connection = f"ipv4:127.0.0.1:{number}"
        await settle()
        assert server.admission.idle.is_set()
        for _ in range(8):
            opened, _ = await server.connect(request(open=EXPLICIT))
            assert is_open(opened)
        assert (server.admission.num_sessions, server.admission.num_queued) == (8, 0)


@pytest.mark.asyncio
async def test_a_tenant_that_says_nothing_has_no_more_read_than_its_limits_allow() -> None:
    """Sessions and bytes; the rest is left where it is, and not asked for."""
    film = Tenant(name="film", max_sessions=3, max_waiting_bytes=5 << 20)
    async with serving(film, max_sessions=8) as server:
        calls = [server.call("film", "render")[0] for _ in range(20)]
        await settle()
        assert sum(context.num_reads for context in calls) == 3


@pytest.mark.asyncio
async def test_a_call_that_comes_when_all_is_taken_is_refused_unread() -> None:
    async with serving(max_sessions=1, max_queued=1) as server:
        for _ in range(2):
            await server.connect(request(open=EXPLICIT))
        context, task = server.call("everyone", "render")
        assert (await status(context, task))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert context.num_reads == 0


@pytest.mark.asyncio
async def test_an_operator_is_shown_frames_of_the_session_with_a_number_and_of_no_other() -> None:
    async with serving(max_sessions=2) as server:
        await server.connect(request(latents(1), open=EXPLICIT))
        second, _ = await server.connect(request(latents(1), open=EXPLICIT))
        seen: list[tuple[int, int, int]] = []

        def look(number: int, asked: OpenRequest, outgoing: Outgoing) -> bool:
            seen.append((number, asked.frame_bytes, outgoing.first_frame))
            return True

        server.service.show_frames(2, look)
        server.service.show_frames(3, look)
        second.send(request(latents(1)))
        await settle()
        assert seen == [(2, FRAME_BYTES, 4)]
        assert [view.number for view in sorted(server.service.views(), key=lambda view: view.number)] == [1, 2]
