import asyncio
import gc
import weakref

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.core.packing import Outgoing
from framehaul_server.core.tenants import Tenant
from tests.support.driven_service import EXPLICIT, Server, is_open, serving, settle, status
from tests.support.fakes import FRAME_BYTES, Aborted, FakeContext, as_context, frame, latents, opening, request


@pytest.mark.asyncio
async def test_stream_serves_a_session_and_gives_its_place_back() -> None:
    async with serving() as server:
        context, task = await server.connect(request(latents(2), open=opening()))
        assert server.admission.num_sessions == 1
        context.half_close()
        await task
        assert context.frames() == [frame(index) for index in range(8)]
        assert server.admission.num_sessions == 0


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
    async with serving() as server:
        context, task = server.call()
        context.requests.put_nowait(raw)
        found = await status(context, task)
        assert found[0] is code
        assert text in found[1]
        assert server.admission.num_sessions == 0


@pytest.mark.asyncio
async def test_a_place_is_held_until_the_status_was_sent() -> None:
    """A client that doesn't read its status holds memory, so it must count."""
    async with serving() as server:
        context, task = server.call()
        context.status_gate.clear()
        context.half_close()
        await settle()
        assert context.requests.empty()
        assert not server.admission.idle.is_set()
        context.status_gate.set()
        await status(context, task)
        assert server.admission.idle.is_set()


@pytest.mark.asyncio
async def test_draining_tells_running_sessions_and_refuses_new_ones() -> None:
    """Also one that was only about to begin."""
    async with serving(max_sessions=3) as server:
        running, task = await server.connect(request(open=opening()))
        beginning = await server.connect()
        server.service.drain(2.0)
        await settle()
        assert running.responses[1].header.drain.grace_ms == 2000
        beginning[0].send(request(open=opening()))
        for refused in (beginning, server.call()):
            assert (await status(*refused))[0] is grpc.StatusCode.UNAVAILABLE
        running.send(request(latents(1)))
        running.half_close()
        await task
        assert server.admission.idle.is_set()


@pytest.mark.asyncio
async def test_a_session_that_ended_is_forgotten() -> None:
    async with serving() as server:
        context, task = await server.connect(request(latents(1), open=opening()))
        context.half_close()
        await task
        session = weakref.ref(server.worker.handles.pop().events)
        await asyncio.sleep(0)
        gc.collect()
        assert session() is None


@pytest.mark.asyncio
async def test_sessions_can_be_failed_together() -> None:
    async with serving() as server:
        call = await server.connect(request(open=opening()))
        server.service.fail_sessions("its grace period is over")
        assert await status(*call) == (grpc.StatusCode.UNAVAILABLE, "its grace period is over")


@pytest.mark.asyncio
async def test_locate_names_this_server() -> None:
    raw = await Server().service.locate(pb.LocateRequest(model="toy").SerializeToString(), as_context(FakeContext()))
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
    server, context = Server(), FakeContext()
    server.service.drain(1.0)
    with pytest.raises(Aborted):
        await server.service.locate(given.SerializeToString(), as_context(context))
    assert context.aborted is not None
    assert context.aborted[0] is code


@pytest.mark.asyncio
async def test_server_info_is_answered() -> None:
    raw = await Server().service.get_server_info(b"", as_context(FakeContext()))
    assert pb.ServerInfo.FromString(raw).version == "1"


@pytest.mark.asyncio
@pytest.mark.parametrize("watch", [False, True])
async def test_what_others_decoded_is_told_to_those_who_may_watch(watch: bool) -> None:
    """The sizes are other tenants'."""
    server, context = Server(Tenant(name="film", watch=watch)), FakeContext()
    context.metadata = (("tenant", "film"),)
    raw = await server.service.get_server_info(b"", as_context(context))
    (model,) = pb.ServerInfo.FromString(raw).models
    assert len(model.rates) == watch


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
