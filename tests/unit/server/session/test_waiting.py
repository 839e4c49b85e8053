"""Sessions that wait for their place, through the service, with fakes around it."""

import asyncio

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_server.core.tenants import Tenant
from tests.support.driven_service import EXPLICIT, RESUMABLE, is_open, leave, serving, settle, status, told
from tests.support.fakes import FakeContext, as_context, frame, latents, opening, request


@pytest.mark.asyncio
async def test_a_session_without_a_place_hears_its_positions_and_is_then_served() -> None:
    """Each one that it has, none twice; the clip that came with its first request comes out whole."""
    async with serving() as server:
        _, first = await server.connect(request(open=EXPLICIT))
        _, second = await server.connect(request(open=EXPLICIT))
        third, third_task = await server.connect(request(latents(2), open=opening()))
        assert told(third) == [2]
        third.half_close()
        await leave(first)
        await settle()
        assert told(third) == [2, 1]
        await leave(second)
        await asyncio.wait_for(third_task, 5)
        assert told(third) == [2, 1]
        assert third.responses[2].header.HasField("opened")
        frames = [response for response in third.responses if response.header.frames.num_frames]
        assert b"".join(bytes(each.payload) for each in frames) == b"".join(frame(index) for index in range(8))
        assert third.done() == pb.Done(num_frames=8, num_latents=2)


@pytest.mark.asyncio
async def test_a_render_call_waits_as_well() -> None:
    async with serving() as server:
        _, holder = await server.connect(request(open=EXPLICIT))
        context = FakeContext()
        raw = pb.RenderRequest(open=opening(), latents=latents(2)).SerializeToString()
        task = asyncio.ensure_future(server.service.render(raw, as_context(context)))
        server.tasks.append(task)
        await settle()
        assert told(context) == [1]
        await leave(holder)
        await asyncio.wait_for(task, 5)
        assert context.done() == pb.Done(num_frames=8, num_latents=2)


@pytest.mark.asyncio
async def test_priority_comes_first_and_then_the_tenant_that_holds_least() -> None:
    async with serving(Tenant(name="film", weight=4.0), Tenant(name="ads"), max_sessions=3) as server:
        holders = [await server.connect(request(open=EXPLICIT), tenant=name) for name in ("film", "ads", "ads")]
        late, _ = await server.connect(request(open=EXPLICIT), tenant="ads")
        early, _ = await server.connect(request(open=EXPLICIT), tenant="film")
        assert (told(late), told(early)) == ([1, 2], [1])
        urgent, _ = await server.connect(request(open=opening(mode=pb.MODE_EXPLICIT, priority=5)), tenant="ads")
        assert (told(late), told(early), told(urgent)) == ([1, 2, 3], [1, 2], [1])
        await leave(holders[0][1])
        await settle()
        assert is_open(urgent)
        await leave(holders[1][1])
        await settle()
        assert is_open(early)
        assert not is_open(late)


@pytest.mark.asyncio
async def test_a_full_queue_refuses_with_a_time_to_wait() -> None:
    async with serving(max_queued=1) as server:
        await server.connect(request(open=EXPLICIT))
        waiting, _ = await server.connect(request(open=EXPLICIT))
        refused, task = await server.connect()
        assert await status(refused, task) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "all 1 sessions of this server are in use, and all 1 places of its queue",
        )
        assert refused.aborted is not None
        assert dict(refused.aborted[2])["grpc-retry-pushback-ms"] == "1000"
        assert not refused.headers_sent
        assert told(waiting) == [1]


@pytest.mark.asyncio
async def test_what_first_requests_hold_in_the_queue_is_bounded() -> None:
    """The whole message counts, as it is kept whole."""
    async with serving(max_queued_bytes=100) as server:
        await server.connect(request(open=EXPLICIT))
        large, task = await server.connect(request(latents(2), open=opening()))
        code, text = await status(large, task)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "its queue holds 0 of 100 bytes of requests" in text
        small, _ = await server.connect(request(open=opening()))
        assert told(small) == [1]
    async with serving(max_queued_bytes=10) as server:
        await server.connect(request(open=EXPLICIT))
        bare, task = await server.connect(request(open=opening()))
        assert (await status(bare, task))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.asyncio
async def test_what_an_explicit_client_says_in_the_queue_is_not_forgotten() -> None:
    """Read ahead, and taken in order once the session runs."""
    async with serving() as server:
        _, holder = await server.connect(request(open=EXPLICIT))
        context, task = await server.connect(
            request(latents(1), open=EXPLICIT), request(open=EXPLICIT), request(end_of_latents=True)
        )
        assert context.requests.empty()
        await leave(holder)
        await settle()
        assert context.done() == pb.Done(num_frames=4, num_latents=1)
        context.send(request(ack=pb.Ack(next_frame=4)))
        context.half_close()
        await asyncio.wait_for(task, 5)


@pytest.mark.asyncio
async def test_what_an_explicit_client_says_after_the_queue_comes_in_order() -> None:
    """The read that was begun in the queue gets the first of it."""
    async with serving() as server:
        _, holder = await server.connect(request(open=EXPLICIT))
        context, _ = await server.connect(request(open=EXPLICIT))
        await leave(holder)
        await settle()
        assert is_open(context)
        for index in range(3):
            context.send(request(latents(1), index=index))
        context.send(request(end_of_latents=True))
        await settle()
        assert context.done() == pb.Done(num_frames=12, num_latents=3)


@pytest.mark.asyncio
async def test_an_auto_client_is_not_read_while_it_is_queued() -> None:
    """HTTP/2 pushes back, so that no memory is held; its half-close is the end of its latents and nothing else."""
    async with serving() as server:
        _, holder = await server.connect(request(open=EXPLICIT))
        context, task = await server.connect(request(latents(1), open=opening()), request(latents(1)))
        context.half_close()
        await settle()
        assert context.requests.qsize() == 2
        await leave(holder)
        await asyncio.wait_for(task, 5)
        assert context.done() == pb.Done(num_frames=8, num_latents=2)


@pytest.mark.asyncio
async def test_a_resuming_call_never_waits() -> None:
    """Its session has its place already."""
    async with serving() as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        session_id = context.responses[0].header.opened.session_id
        waiting, _ = await server.connect(request(open=EXPLICIT))
        await leave(task)
        resumed, _ = await server.resume(session_id)
        assert resumed.responses[0].header.opened.session_id == session_id
        assert told(waiting) == [1]


@pytest.mark.asyncio
async def test_a_session_whose_time_to_be_resumed_is_over_makes_room() -> None:
    async with serving(resume_window_s=0.05) as server:
        _, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        waiting, _ = await server.connect(request(open=EXPLICIT))
        await leave(task)
        assert server.admission.num_sessions == 1
        await asyncio.wait_for(waiting.responded(2), 5)
        assert is_open(waiting)


@pytest.mark.asyncio
async def test_positions_that_change_while_one_is_written_are_skipped() -> None:
    """Only the newest is worth a message, so nothing piles up for a client that reads slowly."""
    async with serving() as server:
        await server.connect(request(open=EXPLICIT))
        ahead = [await server.connect(request(open=EXPLICIT)) for _ in range(3)]
        slow, _ = await server.connect()
        slow.open_gate.clear()
        slow.send(request(open=EXPLICIT))
        await settle()
        for _, task in ahead:
            await leave(task)
        slow.open_gate.set()
        await settle()
        assert told(slow) == [4, 1]
