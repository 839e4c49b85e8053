"""Sessions through several connections, with fakes around them: what is kept, for whom, and until when."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import AtWork, WorkerLost
from framehaul_server.session.connection import Request
from tests.support.driven_service import (
    EXPLICIT,
    RESUMABLE,
    first_frames,
    leave,
    opened,
    resuming,
    serving,
    settle,
    status,
)
from tests.support.fakes import LATENT_BYTES, FakeContext, FakeWorker, latents, opening, request


def break_write(context: FakeContext, task: "asyncio.Task[None]") -> None:
    context.write_error = grpc.aio.InternalError("the batch failed")
    context.send(request(latents(1)))


def close_requests(context: FakeContext, task: "asyncio.Task[None]") -> None:
    context.half_close()


def cancel(context: FakeContext, task: "asyncio.Task[None]") -> None:
    task.cancel()


@pytest.mark.asyncio
@pytest.mark.parametrize("loss", [break_write, close_requests, cancel])
async def test_a_lost_connection_keeps_the_session_and_the_next_one_goes_on(
    loss: Callable[[FakeContext, "asyncio.Task[None]"], None],
) -> None:
    """In every shape that a loss has; the place stays taken, and the clip comes out whole."""
    async with serving() as server:
        context, task = await server.connect(request(latents(2), open=RESUMABLE), request(ack=pb.Ack(next_frame=4)))
        assert first_frames(context) == [0, 4]
        session_id = opened(context).session_id
        loss(context, task)
        await asyncio.gather(task, return_exceptions=True)
        assert server.admission.num_sessions == 1
        assert not server.worker.handles[0].closed

        context, task = await server.resume(session_id, 8)
        again = opened(context)
        assert again.session_id == session_id
        num_there = again.next_latent
        assert num_there == (3 if loss is break_write else 2)
        context.send(request(latents(4 - num_there), index=num_there, end_of_latents=True))
        await settle()
        assert first_frames(context) == [8, 12]
        assert context.done() == pb.Done(num_frames=16, num_latents=4)
        context.send(request(ack=pb.Ack(next_frame=16)))
        await asyncio.wait_for(task, 60)
        assert server.admission.num_sessions == 0
        assert len(server.worker.handles) == 1


@pytest.mark.asyncio
async def test_frames_that_got_lost_on_the_way_are_sent_again() -> None:
    async with serving() as server:
        context, task = await server.connect(request(latents(3), open=RESUMABLE), request(ack=pb.Ack(next_frame=2)))
        before = context.raw[1:4]
        await leave(task)
        resumed, task = await server.resume(opened(context).session_id, 4)
        assert resumed.raw[1:3] == before[1:]


@pytest.mark.asyncio
async def test_a_session_decodes_on_without_a_connection_and_stops_at_its_window() -> None:
    worker = FakeWorker(automatic=False)
    async with serving(worker=worker) as server:
        narrow = pb.Open()
        narrow.CopyFrom(RESUMABLE)
        narrow.window_frames = 8
        context, task = await server.connect(request(latents(5), open=narrow), request(end_of_latents=True))
        await leave(task)
        worker.handles[0].advance()
        assert worker.handles[0].num_published == 8
        narrow.resume.session_id = opened(context).session_id
        context, task = await server.connect(request(open=narrow))
        assert first_frames(context) == [0, 4]


@pytest.mark.asyncio
async def test_while_the_client_is_away_nobody_waits_for_frames() -> None:
    async with serving() as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack(window_frames=8)))
        there = server.worker.handles[0].num_wanted
        await leave(task)
        away = server.worker.handles[0].num_wanted
        await server.resume(opened(context).session_id)
        assert (there, away, server.worker.handles[0].num_wanted) == (4, 0, 4)


@pytest.mark.asyncio
async def test_done_is_sent_again_to_a_client_that_may_not_have_it() -> None:
    async with serving() as server:
        context, task = await server.connect(
            request(latents(1), open=RESUMABLE), request(end_of_latents=True), request(ack=pb.Ack(next_frame=0))
        )
        assert context.done().num_frames == 4
        context.half_close()
        assert (await status(context, task))[0] is grpc.StatusCode.CANCELLED
        context, task = await server.resume(opened(context).session_id, 4)
        assert context.done() == pb.Done(num_frames=4, num_latents=1)
        context.send(request(ack=pb.Ack(next_frame=4)))
        await asyncio.wait_for(task, 60)


@pytest.mark.asyncio
async def test_the_old_connection_is_ended_before_the_new_one_speaks() -> None:
    """It hangs in a write, as on a half-open link; what it wrote is written again."""
    async with serving() as server:
        old, old_task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        old.open_gate.clear()
        old.send(request(latents(1)))
        await settle()
        new, _ = await server.resume(opened(old).session_id, 0)
        assert old_task.done()
        assert await status(old, old_task) == (
            grpc.StatusCode.CANCELLED,
            "another connection has taken this session up",
        )
        assert first_frames(old) == []
        assert first_frames(new) == [0]
        old.open_gate.set()
        await settle()
        assert first_frames(old) == []


@pytest.mark.asyncio
async def test_of_two_that_resume_at_once_the_later_one_has_it() -> None:
    async with serving(max_sessions=2) as server:
        first, _task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        for context, _ in (server.call(), server.call()):
            context.send(resuming(opened(first).session_id))
        await settle()
        states = [task.done() for task in server.tasks]
        assert states.count(False) == 1
        assert server.admission.num_sessions == 1
        assert states[0]


@pytest.mark.asyncio
async def test_a_lost_opened_leaves_no_session_behind() -> None:
    """A client that never answered can't know the session's id."""
    async with serving() as server:
        context, task = await server.connect(request(latents(1), open=RESUMABLE))
        await leave(task)
        assert server.admission.num_sessions == 0
        context, task = await server.resume(opened(context).session_id, 0)
        assert (await status(context, task))[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.asyncio
async def test_what_the_client_cancels_or_the_session_breaks_is_not_kept() -> None:
    for end in (request(cancel=True), request(ack=pb.Ack(next_frame=99))):
        async with serving() as server:
            context, task = await server.connect(request(latents(1), open=RESUMABLE), request(ack=pb.Ack()), end)
            await status(context, task)
            assert server.admission.num_sessions == 0


@pytest.mark.asyncio
async def test_a_session_waits_for_its_window_and_no_longer() -> None:
    async with serving(resume_window_s=0.02) as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await leave(task)
        await asyncio.wait_for(server.admission.idle.wait(), 60)
        assert server.worker.handles[0].closed
        context, task = await server.resume(opened(context).session_id, 0)
        code, text = await status(context, task)
        assert code is grpc.StatusCode.NOT_FOUND
        assert "start_frame" in text


WRONG_VALUES = (grpc.StatusCode.FAILED_PRECONDITION, "opened with other values")
WRONG_RESUMES: list[tuple[int, dict[str, Any], tuple[grpc.StatusCode, str]]] = [
    (9, {}, (grpc.StatusCode.INVALID_ARGUMENT, "open.resume.next_frame=9: must be 2..4")),
    (1, {}, (grpc.StatusCode.INVALID_ARGUMENT, "open.resume.next_frame=1: must be 2..4")),
    (4, {"priority": 3}, WRONG_VALUES),
    (4, {"model": "other"}, WRONG_VALUES),
    (4, {"geometry": pb.LatentGeometry(height=99)}, WRONG_VALUES),
    (4, {"pixel_format": pb.PIXEL_FORMAT_YUV420P}, WRONG_VALUES),
    (4, {"dtype": pb.DATA_TYPE_FLOAT32}, WRONG_VALUES),
    (4, {"start_frame": 4}, WRONG_VALUES),
    (4, {"tenant": "other"}, (grpc.StatusCode.NOT_FOUND, "no such session")),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("next_frame", "changes", "told"), WRONG_RESUMES)
async def test_a_wrong_resume_is_refused_and_nobody_else_notices(
    next_frame: int, changes: dict[str, Any], told: tuple[grpc.StatusCode, str]
) -> None:
    """Neither the call that serves the session meanwhile nor, when that is lost, the right one."""
    async with serving(max_sessions=2) as server:
        live, live_task = await server.connect(request(latents(1), open=RESUMABLE), request(ack=pb.Ack(next_frame=2)))
        session_id = opened(live).session_id
        for is_live in (True, False):
            wrong, task = await server.resume(session_id, next_frame, **changes)
            found = await status(wrong, task)
            assert found[0] is told[0]
            assert told[1] in found[1]
            if is_live:
                live.send(request(latents(1)))
                await settle()
                assert first_frames(live) == [0, 4]
                await leave(live_task)
                told = (told[0], told[1].replace("2..4", "2..8"))
        right, task = await server.resume(session_id, 4)
        assert opened(right).next_latent == 2


WRONG_FIRST_REQUESTS: list[tuple[Request, grpc.StatusCode, str]] = [
    (request(b"x"), grpc.StatusCode.INVALID_ARGUMENT, "latents=1 bytes: must be"),
    (request(b"\xff" * LATENT_BYTES), grpc.StatusCode.INVALID_ARGUMENT, "latents=NaN or infinity at element 0"),
    (request(latents(1), num_latents=2), grpc.StatusCode.INVALID_ARGUMENT, "num_latents=2: must be 1"),
    (request(latents(1), index=9), grpc.StatusCode.FAILED_PRECONDITION, "index=9: the next latent is "),
    (request(latents(1), crc32c=7), grpc.StatusCode.DATA_LOSS, "crc32c=0x00000007: the latents field has"),
    (request(crc32c=7), grpc.StatusCode.INVALID_ARGUMENT, "latents=0 bytes: must be"),
    (request(latents(1000)), grpc.StatusCode.INVALID_ARGUMENT, "must be at most 1000 in this session"),
    (request(latents(900)), grpc.StatusCode.RESOURCE_EXHAUSTED, "wait for a higher one"),
    (request(latents(1), end_of_latents=True), grpc.StatusCode.INVALID_ARGUMENT, "open.num_latents=1000: must be "),
    (request(ack=pb.Ack(next_frame=5)), grpc.StatusCode.INVALID_ARGUMENT, "ack.next_frame=5: must be at most 4"),
    (request(synthetic=pb.Synthetic()), grpc.StatusCode.FAILED_PRECONDITION, "synthetic: this session"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("wrong", "code", "text"), WRONG_FIRST_REQUESTS)
async def test_a_resume_is_refused_for_whatever_its_first_request_says_wrong(
    wrong: Request, code: grpc.StatusCode, text: str
) -> None:
    """As for a wrong `open`: neither the call that serves the session notices nor, when that is lost, the right one."""
    declared = pb.Open()
    declared.CopyFrom(RESUMABLE)
    declared.num_latents = 1000
    async with serving(max_sessions=2) as server:
        live, live_task = await server.connect(request(latents(1), open=declared), request(ack=pb.Ack(next_frame=2)))
        again = resuming(opened(live).session_id, 4, num_latents=1000)
        wrong.header.open.CopyFrom(again.header.open)
        for is_live in (True, False):
            found = await status(*await server.connect(wrong))
            assert found[0] is code
            assert text in found[1]
            if is_live:
                live.send(request(latents(1)))
                await settle()
                assert first_frames(live) == [0, 4]
                await leave(live_task)
        right, _task = await server.connect(again)
        assert opened(right).next_latent == 2


@pytest.mark.asyncio
async def test_a_resume_is_checked_again_after_its_latents_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many latents let others have their turns meanwhile, and the session goes on in one of these."""
    monkeypatch.setattr("framehaul_server.session.latents_in._CHECKED_AT_ONCE_BYTES", LATENT_BYTES)
    async with serving(max_sessions=2) as server:
        live, live_task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        late, task = server.call()
        late.send(request(latents(200), index=0, open=resuming(opened(live).session_id).header.open))
        live.send(request(latents(1)))
        code, text = await status(late, task)
        assert (code, text) == (grpc.StatusCode.FAILED_PRECONDITION, "index=0: the next latent is 1")
        assert not live_task.done()


@pytest.mark.asyncio
async def test_a_resume_that_cancels_ends_the_session_whatever_else_it_says() -> None:
    async with serving(max_sessions=2) as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await leave(task)
        cancelling = request(b"x", open=resuming(opened(context).session_id).header.open, cancel=True)
        assert await status(*await server.connect(cancelling)) == (grpc.StatusCode.CANCELLED, "cancelled by the client")
        assert server.admission.num_sessions == 0


@pytest.mark.asyncio
async def test_an_error_while_nobody_is_connected_is_told_to_the_next_one() -> None:
    async with serving() as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await leave(task)
        for _ in range(2):
            server.worker.die(WorkerLost(at_work=AtWork.ALONE))
            server.service.worker_ready()
        server.worker.die(WorkerLost(at_work=AtWork.ALONE))
        again, task = await server.resume(opened(context).session_id, 0)
        assert (await status(again, task))[0] is grpc.StatusCode.ABORTED


@pytest.mark.asyncio
async def test_a_fault_of_the_servers_own_is_not_a_lost_connection() -> None:
    """The call was used after its end: who knows what state the session is in."""
    async with serving() as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        context.write_error = grpc.aio.UsageError("the call has ended")
        context.send(request(latents(1)))
        assert (await status(context, task))[0] is grpc.StatusCode.INTERNAL
        assert server.admission.num_sessions == 0


@pytest.mark.asyncio
async def test_each_change_of_a_sessions_state_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """In the words of docs/protocol.md, under the call's id: that of a session is a right to it."""
    with caplog.at_level(logging.DEBUG, logger="framehaul_server.session.session"):
        async with serving() as server:
            _, holder = await server.connect(request(open=EXPLICIT))
            context, task = await server.connect(request(open=RESUMABLE))
            await leave(holder)
            await settle()
            session_id = context.responses[1].header.opened.session_id
            for _ in range(2):
                context.send(request(ack=pb.Ack()))
            await settle()
            await leave(task)
            _, task = await server.resume(session_id)
            await leave(task)
    lines = [line.getMessage() for line in caplog.records]
    words = [re.sub(r"session id=\w+ was=(\w+) now=(\w+)", r"\1 \2", line) for line in lines]
    assert words == [
        "start opened",
        "start queued",
        "opened ended",
        "queued opened",
        "opened served",
        "served detached",
        "detached served",
        "served detached",
        "detached ended",
    ]
    assert session_id.hex() not in caplog.text


@pytest.mark.asyncio
async def test_a_session_is_its_tenants_alone() -> None:
    """To everybody else it doesn't exist, whatever they know; and it is not disturbed."""
    async with serving(max_sessions=2) as server:
        mine, my_task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        theirs, task = await server.resume(opened(mine).session_id, tenant="other")
        assert (await status(theirs, task))[0] is grpc.StatusCode.NOT_FOUND
        assert not my_task.done()
        assert await server.locate(opened(mine).session_id, tenant="other") is grpc.StatusCode.NOT_FOUND
        assert await server.locate(opened(mine).session_id) == "farm:50051"


@pytest.mark.asyncio
async def test_a_full_server_lets_its_own_sessions_back_in_and_no_others() -> None:
    async with serving(max_queued=0) as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await leave(task)
        other, other_task = await server.connect(request(open=opening()))
        assert (await status(other, other_task))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        again, task = await server.resume(opened(context).session_id, 0)
        assert opened(again).session_id == opened(context).session_id
        assert server.admission.num_sessions == 1


@pytest.mark.asyncio
async def test_a_draining_server_still_names_itself_for_a_session_that_it_serves() -> None:
    async with serving() as server:
        context, _task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        server.service.drain(1.0)
        assert await server.locate(opened(context).session_id) == "farm:50051"


@pytest.mark.asyncio
async def test_a_draining_server_keeps_nothing_that_has_no_connection() -> None:
    async with serving(max_sessions=2) as server:
        _, lost = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        _, served = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await leave(lost)
        assert server.admission.num_sessions == 2
        server.service.drain(5.0)
        assert server.admission.num_sessions == 1
        await leave(served)
        assert server.admission.num_sessions == 0
