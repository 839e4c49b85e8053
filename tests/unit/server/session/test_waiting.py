"""Sessions that wait for a place or for the worker: their turn, their endings, and what that is to the others."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import AtWork, WorkerLost
from framehaul_server.core.tenants import Tenant
from framehaul_server.rpc import service
from framehaul_server.session import waiting
from framehaul_server.session.session import Session
from tests.support.driven_service import EXPLICIT, RESUMABLE, Server, is_open, leave, serving, settle, status, told
from tests.support.fakes import FakeContext, frame, latents, opening, request
from tests.support.waiting import eventually


def lose_worker(server: Server) -> None:
    server.worker.available = False
    server.service.worker_lost()
    server.worker.die(WorkerLost(at_work=AtWork.NO))


def replace_worker(server: Server) -> None:
    server.worker.available = True
    server.service.worker_ready()


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
        await asyncio.wait_for(third_task, 60)
        assert told(third) == [2, 1]
        assert third.responses[2].header.HasField("opened")
        frames = [response for response in third.responses if response.header.frames.num_frames]
        assert b"".join(bytes(each.payload) for each in frames) == b"".join(frame(index) for index in range(8))
        assert third.done() == pb.Done(num_frames=8, num_latents=2)


@pytest.mark.asyncio
async def test_a_position_that_stays_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits long hears that its server lives."""
    monkeypatch.setattr(waiting, "_TOLD_AGAIN_S", 0.01)
    async with serving() as server:
        for _ in range(2):
            await server.connect(request(open=EXPLICIT))
        waits, _ = await server.connect(request(open=EXPLICIT))
        await eventually(lambda: len(told(waits)) > 2, lambda: told(waits))
        assert set(told(waits)) == {told(waits)[0]}


@pytest.mark.asyncio
async def test_a_render_call_waits_as_well() -> None:
    async with serving() as server:
        _, holder = await server.connect(request(open=EXPLICIT))
        context, task = server.call(method="render")
        context.requests.put_nowait(pb.RenderRequest(open=opening(), latents=latents(2)).SerializeToString())
        await settle()
        assert told(context) == [1]
        await leave(holder)
        await asyncio.wait_for(task, 60)
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
async def test_a_session_that_was_asked_for_earlier_is_before_newer_ones_of_its_tenant() -> None:
    """It comes from another server, and whatever age it says it has, it passes nobody of another tenant."""
    async with serving(Tenant(name="film"), Tenant(name="ads"), max_sessions=2) as server:
        holders = [await server.connect(request(open=EXPLICIT), tenant=name) for name in ("film", "ads")]
        new, _ = await server.connect(request(open=EXPLICIT), tenant="film")
        other, _ = await server.connect(request(open=EXPLICIT), tenant="ads")
        old, _ = await server.connect(request(open=opening(mode=pb.MODE_EXPLICIT, age_ms=60_000)), tenant="film")
        assert (told(new), told(other), told(old)) == ([1, 3], [2, 1], [2])
        for _, holder in reversed(holders):
            await leave(holder)
            await settle()
        assert (is_open(other), is_open(old), is_open(new)) == (True, True, False)
        first, *_, last = server.worker.opened
        assert last.asked_ns < first.asked_ns, "the worker serves it before them too"


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
        await asyncio.wait_for(task, 60)


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
        await asyncio.wait_for(task, 60)
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
        await asyncio.wait_for(waiting.responded(2), 60)
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


def chatter(context: FakeContext, _: "asyncio.Task[None]") -> None:
    for _number in range(300):
        context.send(request(ack=pb.Ack(window_frames=9)))


Loss = Callable[[FakeContext, "asyncio.Task[None]"], object]
LOSSES: list[tuple[Loss, grpc.StatusCode | None]] = [
    (lambda _, task: task.cancel(), None),
    (lambda context, _: context.send(request(cancel=True)), grpc.StatusCode.CANCELLED),
    (lambda context, _: context.half_close(), grpc.StatusCode.CANCELLED),
    (lambda context, _: context.send(request(latents(1))), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (chatter, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (lambda context, _: context.requests.put_nowait(b"\xff\xff"), grpc.StatusCode.INVALID_ARGUMENT),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("loss", "code"), LOSSES)
async def test_a_client_that_ends_while_it_is_queued_leaves_the_queue(loss: Loss, code: grpc.StatusCode | None) -> None:
    """And those behind it move up at once; the worker never hears of its session."""
    async with serving() as server:
        await server.connect(request(open=EXPLICIT))
        leaving, task = await server.connect(request(open=EXPLICIT))
        behind, _ = await server.connect(request(open=EXPLICIT))
        loss(leaving, task)
        await asyncio.wait([task], timeout=60)
        assert task.done()
        await settle()
        assert leaving.aborted is None if code is None else leaving.aborted is not None and leaving.aborted[0] is code
        assert told(behind) == [2, 1]
        assert server.admission.num_queued == 1
        assert len(server.worker.handles) == 1
        assert sum(server.recorder.queue_s.counts) == 1, "counted when it leaves, for whatever reason"


@pytest.mark.asyncio
async def test_the_queue_is_left_before_anything_else_is_waited_for() -> None:
    """In the very step in which the call hears of its end."""
    async with serving() as server:
        await server.connect(request(open=EXPLICIT))
        _, task = await server.connect(request(open=EXPLICIT))
        assert server.admission.num_queued == 1
        task.cancel()
        await asyncio.sleep(0)
        assert server.admission.num_queued == 0
        assert not task.done()


@pytest.mark.asyncio
async def test_a_write_that_fails_ends_the_wait() -> None:
    """As when the connection is lost."""
    async with serving() as server:
        await server.connect(request(open=EXPLICIT))
        leaving, task = await server.connect(request(open=EXPLICIT))
        await server.connect(request(open=opening(mode=pb.MODE_EXPLICIT, priority=1)))
        leaving.write_error = grpc.aio.InternalError("the batch failed")
        await server.connect(request(open=opening(mode=pb.MODE_EXPLICIT, priority=2)))
        with pytest.raises(grpc.aio.InternalError):
            await asyncio.wait_for(task, 60)
        assert server.admission.num_queued == 2


@pytest.mark.asyncio
async def test_a_queued_client_is_not_silent_and_a_silent_one_keeps_nobody_out() -> None:
    """The first request's time is over long before the place is there; who says nothing takes no place."""
    async with serving(timeout_s=0.5) as server:
        silent, silent_task = await server.connect()
        _, holder = await server.connect(request(open=EXPLICIT))
        assert server.admission.num_sessions == 1
        context, task = await server.connect(request(open=EXPLICIT))
        assert (await status(silent, silent_task))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.sleep(0.6)
        assert not task.done()
        await leave(holder)
        await settle()
        assert is_open(context)


@pytest.mark.asyncio
@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("restarting", [False, True])
async def test_draining_or_failing_ends_those_that_wait(failed: bool, restarting: bool) -> None:
    """For a place, or for the worker while places are free."""
    async with serving() as server:
        if restarting:
            lose_worker(server)
        else:
            await server.connect(request(open=EXPLICIT))
        waiting = [await server.connect(request(open=EXPLICIT)) for _ in range(2)]
        if failed:
            server.service.fail_sessions("the worker died too often")
        else:
            server.service.drain(2.0)
        for context, task in waiting:
            code, text = await status(context, task)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "died too often" in text if failed else "draining" in text
        assert server.admission.num_queued == 0


@pytest.mark.asyncio
async def test_a_place_given_at_the_very_moment_of_draining_is_refused_too() -> None:
    """Or the session would never hear that the server stops."""
    async with serving() as server:
        _, holder = await server.connect(request(open=EXPLICIT))
        context, task = await server.connect(request(open=EXPLICIT))
        holder.cancel()
        while server.admission.num_queued:  # noqa: ASYNC110
            await asyncio.sleep(0)
        server.service.drain(2.0)
        assert (await status(context, task))[0] is grpc.StatusCode.UNAVAILABLE
        assert not is_open(context)


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_its_position_loses_its_place_in_time() -> None:
    """While it is queued it keeps nobody from anything; with a place it would."""
    async with serving(stall_timeout_s=0.1) as server:
        _, holder = await server.connect(request(open=EXPLICIT))
        stalled, task = await server.connect()
        stalled.open_gate.clear()
        stalled.send(request(open=EXPLICIT))
        await settle()
        behind, _ = await server.connect(request(open=EXPLICIT))
        await leave(holder)
        assert await status(stalled, task) == (
            grpc.StatusCode.ABORTED,
            "the session's place in the queue was not read for 0.1 s",
        )
        await asyncio.wait_for(behind.responded(2), 60)
        assert is_open(behind)


@pytest.mark.asyncio
async def test_a_refusal_by_the_worker_stays_a_refusal() -> None:
    """Device memory say: the place is there, the session isn't, and the next one has its turn."""
    async with serving() as server:
        _, holder = await server.connect(request(open=EXPLICIT))
        refused, task = await server.connect(request(open=EXPLICIT))
        behind, _ = await server.connect(request(open=EXPLICIT))
        server.worker.available = False
        holder.cancel()
        assert (await status(refused, task))[0] is grpc.StatusCode.UNAVAILABLE
        assert told(behind) in ([2, 1], [2])


@pytest.mark.asyncio
async def test_a_session_that_left_the_queue_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its latents."""
    made: weakref.WeakSet[Session] = weakref.WeakSet()

    class Noted(Session):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.add(self)

    monkeypatch.setattr(service, "Session", Noted)
    async with serving() as server:
        await server.connect(request(open=EXPLICIT))
        await server.connect(request(latents(1), open=EXPLICIT))
        assert len(made) == 2
        await leave(server.tasks.pop())
        await settle()
        gc.collect()
        assert len(made) == 1


@pytest.mark.asyncio
async def test_new_sessions_wait_for_the_worker_behind_those_that_it_lost() -> None:
    """They hear that they are queued though places are free, and go on by themselves; the running ones come first."""
    async with serving(max_sessions=3) as server:
        running, _ = await server.connect(request(latents(1), open=EXPLICIT))
        lose_worker(server)
        first, first_task = await server.connect(request(latents(1), open=opening(num_latents=1)))
        second, second_task = await server.connect(request(latents(2), open=opening(num_latents=2)))
        assert (told(first), told(second)) == ([1], [2])
        for context in (first, second):
            context.half_close()
        replace_worker(server)
        await asyncio.wait_for(asyncio.gather(first_task, second_task), 60)
        assert first.done() == pb.Done(num_frames=4, num_latents=1)
        assert second.done() == pb.Done(num_frames=8, num_latents=2)
        assert [opened.num_latents for opened in server.worker.opened] == [None, None, 1, 2]
        running.send(request(end_of_latents=True))
        await settle()
        assert running.done() == pb.Done(num_frames=4, num_latents=1)


@pytest.mark.asyncio
@pytest.mark.parametrize("num_latents", [0, 2])
async def test_a_place_that_was_given_before_the_worker_died_is_kept(num_latents: int) -> None:
    """A client that reads slowly is told of it late: the session begins with the next worker, without a word."""
    async with serving(max_sessions=2) as server:
        server.worker.restarting = True
        context, task = await server.connect(request(open=opening(num_latents=2)))
        for _ in range(num_latents):
            context.send(request(latents(1)))
        await settle()
        assert is_open(context)
        assert not server.worker.opened
        server.worker.restarting = False
        replace_worker(server)
        await settle()
        for _ in range(2 - num_latents):
            context.send(request(latents(1)))
        context.half_close()
        await asyncio.wait_for(task, 60)
        assert context.done() == pb.Done(num_frames=8, num_latents=2)
        assert len(server.worker.opened) == 1


@pytest.mark.asyncio
async def test_a_resuming_call_does_not_wait_for_the_worker() -> None:
    """Its session has its place, and frames that the client lacks."""
    async with serving() as server:
        context, task = await server.connect(request(latents(1), open=RESUMABLE), request(ack=pb.Ack()))
        lose_worker(server)
        await leave(task)
        again, _ = await server.resume(context.responses[0].header.opened.session_id)
        assert again.frames() == context.frames() != []


@pytest.mark.asyncio
async def test_who_leaves_while_the_worker_restarts_is_not_waited_for() -> None:
    async with serving(max_sessions=2) as server:
        lose_worker(server)
        _, leaving = await server.connect(request(open=EXPLICIT))
        staying, _ = await server.connect(request(open=EXPLICIT))
        await leave(leaving)
        await settle()
        assert told(staying) == [2, 1]
        replace_worker(server)
        await settle()
        assert is_open(staying)
        assert server.admission.num_sessions == 1


@pytest.mark.asyncio
async def test_without_room_in_the_queue_a_session_is_refused_while_the_worker_restarts() -> None:
    async with serving(max_queued=0) as server:
        lose_worker(server)
        refused, task = await server.connect(request(open=EXPLICIT))
        assert await status(refused, task) == (grpc.StatusCode.UNAVAILABLE, "the worker is restarting; try again")
        assert not refused.headers_sent
        replace_worker(server)
        context, _ = await server.connect(request(open=EXPLICIT))
        assert is_open(context)
