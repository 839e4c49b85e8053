"""How sessions end that wait for their place, and what that is to the others."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_server.rpc import service
from framehaul_server.session.session import Session
from tests.support.driven_service import EXPLICIT, is_open, leave, serving, settle, status, told
from tests.support.fakes import FakeContext, latents, opening, request

Loss = Callable[[FakeContext, "asyncio.Task[None]"], None]


def cancel_call(context: FakeContext, task: "asyncio.Task[None]") -> None:
    task.cancel()


def ask_to_cancel(context: FakeContext, task: "asyncio.Task[None]") -> None:
    context.send(request(cancel=True))


def half_close(context: FakeContext, task: "asyncio.Task[None]") -> None:
    context.half_close()


def send_latents(context: FakeContext, task: "asyncio.Task[None]") -> None:
    context.send(request(latents(1)))


def chatter(context: FakeContext, task: "asyncio.Task[None]") -> None:
    for _ in range(300):
        context.send(request(ack=pb.Ack(window_frames=9)))


def send_rubbish(context: FakeContext, task: "asyncio.Task[None]") -> None:
    context.requests.put_nowait(b"\xff\xff")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("loss", "code"),
    [
        (cancel_call, None),
        (ask_to_cancel, grpc.StatusCode.CANCELLED),
        (half_close, grpc.StatusCode.CANCELLED),
        (send_latents, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (chatter, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (send_rubbish, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_client_that_ends_while_it_is_queued_leaves_the_queue(loss: Loss, code: grpc.StatusCode | None) -> None:
    """And those behind it move up at once; the worker never hears of its session."""
    async with serving() as server:
        await server.connect(request(open=EXPLICIT))
        leaving, task = await server.connect(request(open=EXPLICIT))
        behind, _ = await server.connect(request(open=EXPLICIT))
        loss(leaving, task)
        await asyncio.wait([task], timeout=5)
        assert task.done()
        await settle()
        assert leaving.aborted is None if code is None else leaving.aborted is not None and leaving.aborted[0] is code
        assert told(behind) == [2, 1]
        assert server.admission.num_queued == 1
        assert len(server.worker.handles) == 1


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
            await asyncio.wait_for(task, 5)
        assert server.admission.num_queued == 2


@pytest.mark.asyncio
async def test_a_queued_client_is_not_silent_and_a_silent_one_keeps_nobody_out() -> None:
    """The first request's time is over long before the place is there; who says nothing takes no place."""
    async with serving(timeout_s=0.05) as server:
        silent, silent_task = await server.connect()
        _, holder = await server.connect(request(open=EXPLICIT))
        assert server.admission.num_sessions == 1
        context, task = await server.connect(request(open=EXPLICIT))
        assert (await status(silent, silent_task))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.sleep(0.1)
        assert not task.done()
        await leave(holder)
        await settle()
        assert is_open(context)


@pytest.mark.asyncio
@pytest.mark.parametrize("failed", [False, True])
async def test_draining_or_failing_ends_those_that_wait(failed: bool) -> None:
    async with serving() as server:
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
        await asyncio.wait_for(behind.responded(2), 5)
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
