"""Clients that are connected and do nothing, and calls that end while their client doesn't read."""

import asyncio
import gc
import itertools
import weakref

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_server.session.stall_timer import StallTimer
from tests.support.driven_service import RESUMABLE, leave, opened, serving, status
from tests.support.fakes import latents, opening, request


class Looks:
    """Gives positions in turn, and says when it was asked."""

    def __init__(self, *positions: int) -> None:
        self.num = 0
        self.asked = asyncio.Event()
        self.positions = itertools.chain(positions, itertools.repeat(positions[-1]))

    def __call__(self) -> object:
        self.num += 1
        self.asked.set()
        return next(self.positions)

    async def times(self, count: int) -> None:
        while self.num < count:
            self.asked.clear()
            await self.asked.wait()


@pytest.mark.asyncio
async def test_what_does_not_move_is_stalled_once() -> None:
    stalled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    looks = Looks(1)
    timer = StallTimer(0.04, position=looks, stalled=lambda: stalled.set_result(None))
    timer.start()
    await asyncio.wait_for(stalled, 60)
    assert looks.num == 5
    timer.stop()


@pytest.mark.asyncio
async def test_what_moves_now_and_then_is_not() -> None:
    stalled: list[None] = []
    looks = Looks(1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4)
    timer = StallTimer(0.04, position=looks, stalled=lambda: stalled.append(None))
    timer.start()
    await asyncio.wait_for(looks.times(13), 60)
    assert not stalled
    timer.stop()
    timer.stop()


@pytest.mark.asyncio
async def test_a_client_stalls_only_while_it_is_connected() -> None:
    """Away it has the resume window; back again, the whole of its time, and its end is final."""
    async with serving(stall_timeout_s=0.2) as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await leave(task)
        await asyncio.sleep(0.5)  # nothing happens, which sends no event
        resumed_s = asyncio.get_running_loop().time()
        again, task = await server.resume(opened(context).session_id, 0)
        assert (await status(again, task))[0] is grpc.StatusCode.ABORTED
        assert asyncio.get_running_loop().time() - resumed_s >= 0.15
        gone, task = await server.resume(opened(context).session_id, 0)
        assert (await status(gone, task))[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.asyncio
async def test_all_that_a_stalled_session_held_goes_at_once_though_its_client_never_reads() -> None:
    """Up to a number of such calls; over it, each holds a place until its client leaves."""
    async with serving(stall_timeout_s=0.05, max_sessions=2, max_queued=0) as server:
        num_free = 10
        for count in range(1, num_free + 3):
            context, task = await server.connect(request(latents(1), open=opening(num_latents=2)))
            context.status_gate.clear()
            session = weakref.ref(next(iter(server.service._sessions)))
            await asyncio.wait_for(context.aborting.wait(), 60)
            assert context.aborted is not None
            assert context.aborted[0] is grpc.StatusCode.ABORTED
            assert not task.done()
            assert server.unread_calls.num_calls == count
            assert server.admission.num_sessions == max(0, count - num_free)
            assert server.worker.handles[-1].closed
            server.worker.handles.clear()
            gc.collect()
            assert session() is None
        refused, task = await server.connect(request(open=opening()))
        assert (await status(refused, task))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        for lost in server.tasks:
            await leave(lost)
        assert server.unread_calls.num_calls == 0
        assert server.admission.num_sessions == 0


@pytest.mark.asyncio
async def test_resuming_again_and_again_leaves_only_so_many_calls_behind() -> None:
    async with serving() as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        session_id = opened(context).session_id
        for _ in range(9):
            context.status_gate.clear()
            context, task = await server.resume(session_id, 0)
            assert opened(context).session_id == session_id
        refused, refused_task = await server.resume(session_id, 0)
        code, text = await status(refused, refused_task)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "9 calls of tenant everyone have ended" in text
        assert not task.done()
        await leave(server.tasks[0])
        again, _ = await server.resume(session_id, 0)
        assert opened(again).session_id == session_id
