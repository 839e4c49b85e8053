"""Sessions that are opened while the worker restarts, with fakes around them."""

import asyncio

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import AtWork, WorkerLost
from tests.support.driven_service import EXPLICIT, RESUMABLE, Server, is_open, leave, serving, settle, status, told
from tests.support.fakes import latents, opening, request


def lose_worker(server: Server) -> None:
    server.worker.available = False
    server.service.worker_lost()
    server.worker.die(WorkerLost(at_work=AtWork.NO))


def replace_worker(server: Server) -> None:
    server.worker.available = True
    server.service.worker_ready()


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
        await asyncio.wait_for(asyncio.gather(first_task, second_task), 5)
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
        await asyncio.wait_for(task, 5)
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
@pytest.mark.parametrize("failed", [False, True])
async def test_waiting_for_the_worker_ends_when_the_server_gives_up_or_drains(failed: bool) -> None:
    async with serving() as server:
        lose_worker(server)
        waiting, task = await server.connect(request(open=EXPLICIT))
        if failed:
            server.service.fail_sessions("the worker died too often")
        else:
            server.service.drain(2.0)
        code, text = await status(waiting, task)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "died too often" in text if failed else "draining" in text


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
