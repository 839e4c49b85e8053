"""A session through several connections and workers, with fakes around it."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import grpc
import msgspec
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope
from framehaul_pipeline.errors import AtWork, WorkerLost
from framehaul_pipeline.spec import DecoderSpec
from framehaul_server.admission import Admission
from framehaul_server.callers import Callers
from framehaul_server.lingering import LingeringCalls
from framehaul_server.service import Context, FrameService, ServiceIdentity
from framehaul_server.tenants import Caller, Tenant
from tests.unit.server.fakes import (
    SPEC,
    Aborted,
    FakeContext,
    FakeWorker,
    frame,
    latents,
    opening,
    request,
    rules,
)

RESUMABLE = opening(mode=pb.MODE_EXPLICIT, resume=pb.Resume(), window_frames=64)
FINITE = msgspec.structs.replace(SPEC, receptive_latents=3)
PICTURE_FIRST = msgspec.structs.replace(FINITE, first_frames=1)
GONE = WorkerLost(at_work=AtWork.ALONE)
GONE_BESIDE_OTHERS = WorkerLost(at_work=AtWork.BESIDE_OTHERS)
GONE_ELSEWHERE = WorkerLost(at_work=AtWork.NO)
"""At work for another session, or for none."""


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


class OneTenant:
    """Who calls, as the test says."""

    def __init__(self) -> None:
        self.name = "one"

    def identify(self, metadata: object) -> Caller:
        return Caller(tenant=Tenant(name=self.name))


class Server:
    """A service, its worker, and the client's view of a session over all its connections."""

    def __init__(
        self,
        worker: FakeWorker | None = None,
        *,
        max_sessions: int = 1,
        window_s: float = 30.0,
        stall_timeout_s: float = 600.0,
    ) -> None:
        self.worker = worker or FakeWorker()
        self.admission = Admission(max_sessions)
        self.lingering = LingeringCalls(max_sessions)
        self.callers = OneTenant()
        self.service = FrameService(
            worker=self.worker,
            callers=cast(Callers, self.callers),
            admission=self.admission,
            lingering=self.lingering,
            rules=rules(spec=self.worker.specs[0], stall_timeout_s=stall_timeout_s),
            first_request_timeout_s=5.0,
            resume_window_s=window_s,
            identity=ServiceIdentity(target="farm:50051", epoch=7),
            info=pb.ServerInfo,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(self, *requests: Envelope[pb.StreamRequest]) -> tuple[FakeContext, "asyncio.Task[None]"]:
        context = FakeContext()
        task = asyncio.ensure_future(self.service.stream(None, cast(Context, context)))
        self.tasks.append(task)
        for each in requests:
            context.send(each)
            await settle()
        return context, task

    async def resume(
        self, session_id: bytes, next_frame: int, **changes: object
    ) -> tuple[FakeContext, "asyncio.Task[None]"]:
        again = pb.Open()
        again.CopyFrom(RESUMABLE)
        again.MergeFrom(pb.Open(resume=pb.Resume(session_id=session_id, next_frame=next_frame), **changes))  # type: ignore[arg-type]
        return await self.connect(request(open=again))


@asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[Server]:
    server = Server(**settings)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        server.service.drain(0.0)
        assert server.admission.num_sessions == 0
        assert all(handle.closed for handle in server.worker.handles)


async def lose(task: "asyncio.Task[None]") -> None:
    """What grpc.aio does to the handler of a broken connection."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def opened(context: FakeContext) -> pb.Opened:
    return context.responses[0].header.opened


def first_frames(context: FakeContext) -> list[int]:
    return [each.header.frames.first_frame for each in context.responses if each.header.frames.num_frames]


async def status(context: FakeContext, task: "asyncio.Task[None]") -> tuple[grpc.StatusCode, str]:
    with pytest.raises(Aborted):
        await asyncio.wait_for(task, 5)
    assert context.aborted is not None
    return context.aborted[:2]


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
        await asyncio.wait_for(task, 5)
        assert server.admission.num_sessions == 0
        assert len(server.worker.handles) == 1


@pytest.mark.asyncio
async def test_frames_that_got_lost_on_the_way_are_sent_again() -> None:
    async with serving() as server:
        context, task = await server.connect(request(latents(3), open=RESUMABLE), request(ack=pb.Ack(next_frame=2)))
        before = context.raw[1:4]
        await lose(task)
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
        await lose(task)
        worker.handles[0].advance()
        assert worker.handles[0].num_published == 8
        narrow.resume.session_id = opened(context).session_id
        context, task = await server.connect(request(open=narrow))
        assert first_frames(context) == [0, 4]


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
        await asyncio.wait_for(task, 5)


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
        session_id = opened(first).session_id
        again = pb.Open()
        again.CopyFrom(RESUMABLE)
        again.resume.session_id = session_id
        contexts = [FakeContext(), FakeContext()]
        for context in contexts:
            context.send(request(open=again))
            server.tasks.append(asyncio.ensure_future(server.service.stream(None, cast(Context, context))))
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
        await lose(task)
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
    async with serving(window_s=0.02) as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await lose(task)
        assert server.admission.num_sessions == 1
        await asyncio.wait_for(server.admission.idle.wait(), 5)
        assert server.worker.handles[0].closed
        context, task = await server.resume(opened(context).session_id, 0)
        code, text = await status(context, task)
        assert code is grpc.StatusCode.NOT_FOUND
        assert "start_frame" in text


@pytest.mark.asyncio
async def test_a_client_stalls_only_while_it_is_connected() -> None:
    """Away it has the resume window; back again, the whole of its time, and its end is final."""
    async with serving(stall_timeout_s=0.2) as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await lose(task)
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
    async with serving(stall_timeout_s=0.05, max_sessions=2) as server:
        num_free = 10
        for count in range(1, num_free + 3):
            context, task = await server.connect(request(latents(1), open=opening(num_latents=2)))
            context.status_gate.clear()
            session = weakref.ref(next(iter(server.service._sessions)))
            await asyncio.wait_for(context.aborting.wait(), 10)
            assert context.aborted is not None
            assert context.aborted[0] is grpc.StatusCode.ABORTED
            assert not task.done()
            assert server.lingering.num_calls == count
            assert server.admission.num_sessions == max(0, count - num_free)
            assert server.worker.handles[-1].closed
            server.worker.handles.clear()
            gc.collect()
            assert session() is None
        refused, task = await server.connect(request(open=opening()))
        assert (await status(refused, task))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        for lost in server.tasks:
            await lose(lost)
        assert server.lingering.num_calls == 0
        assert server.admission.num_sessions == 0


@pytest.mark.asyncio
async def test_resuming_again_and_again_leaves_only_so_many_calls_behind() -> None:
    async with serving(max_sessions=1) as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        session_id = opened(context).session_id
        for _ in range(9):
            context.status_gate.clear()
            context, task = await server.resume(session_id, 0)
            assert opened(context).session_id == session_id
        refused, refused_task = await server.resume(session_id, 0)
        code, text = await status(refused, refused_task)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "9 calls of tenant one have ended" in text
        assert not task.done()
        await lose(server.tasks[0])
        again, _ = await server.resume(session_id, 0)
        assert opened(again).session_id == session_id


@pytest.mark.asyncio
async def test_a_session_is_its_tenants_alone() -> None:
    """To everybody else it doesn't exist, whatever they know; and it is not disturbed."""
    async with serving(max_sessions=2) as server:
        mine, my_task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        server.callers.name = "two"
        theirs, task = await server.resume(opened(mine).session_id, 0)
        assert (await status(theirs, task))[0] is grpc.StatusCode.NOT_FOUND
        assert not my_task.done()
        asked = pb.LocateRequest(session_id=opened(mine).session_id).SerializeToString()
        context = FakeContext()
        with pytest.raises(Aborted):
            await server.service.locate(asked, cast(Context, context))
        assert context.aborted is not None
        assert context.aborted[0] is grpc.StatusCode.NOT_FOUND
        server.callers.name = "one"
        found = await server.service.locate(asked, cast(Context, FakeContext()))
        assert pb.LocateResponse.FromString(found).target == "farm:50051"


@pytest.mark.asyncio
async def test_a_full_server_lets_its_own_sessions_back_in_and_no_others() -> None:
    async with serving(max_sessions=1) as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await lose(task)
        other, other_task = await server.connect(request(open=opening()))
        assert (await status(other, other_task))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        again, task = await server.resume(opened(context).session_id, 0)
        assert opened(again).session_id == opened(context).session_id
        assert server.admission.num_sessions == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("next_frame", "changes", "code", "text"),
    [
        (9, {}, grpc.StatusCode.INVALID_ARGUMENT, "open.resume.next_frame=9: must be 0..4"),
        (0, {"priority": 3}, grpc.StatusCode.FAILED_PRECONDITION, "opened with other values"),
    ],
)
async def test_a_wrong_resume_is_refused_and_the_right_one_still_works(
    next_frame: int, changes: dict[str, object], code: grpc.StatusCode, text: str
) -> None:
    async with serving() as server:
        context, task = await server.connect(request(latents(1), open=RESUMABLE), request(ack=pb.Ack()))
        await lose(task)
        wrong, task = await server.resume(opened(context).session_id, next_frame, **changes)
        found = await status(wrong, task)
        assert found[0] is code
        assert text in found[1]
        right, task = await server.resume(opened(context).session_id, 4)
        assert opened(right).next_latent == 1


@pytest.mark.asyncio
async def test_an_error_while_nobody_is_connected_is_told_to_the_next_one() -> None:
    async with serving() as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await lose(task)
        server.worker.die(GONE)
        server.service.worker_ready()
        server.worker.die(GONE)
        again, task = await server.resume(opened(context).session_id, 0)
        assert (await status(again, task))[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.asyncio
async def test_a_draining_server_still_names_itself_for_a_session_that_it_serves() -> None:
    async with serving() as server:
        context, _task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        server.service.drain(1.0)
        asked = pb.LocateRequest(session_id=opened(context).session_id)
        found = await server.service.locate(asked.SerializeToString(), cast(Context, FakeContext()))
        assert pb.LocateResponse.FromString(found).target == "farm:50051"


@pytest.mark.asyncio
async def test_a_draining_server_keeps_nothing_that_has_no_connection() -> None:
    async with serving(max_sessions=2) as server:
        _, lost = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        _, served = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await lose(lost)
        assert server.admission.num_sessions == 2
        server.service.drain(5.0)
        assert server.admission.num_sessions == 1
        await lose(served)
        assert server.admission.num_sessions == 0


# Workers


@pytest.mark.asyncio
@pytest.mark.parametrize(("spec", "first_latent"), [(SPEC, 0), (FINITE, 2), (PICTURE_FIRST, 2)])
async def test_a_dead_workers_session_is_rebuilt_and_the_client_sees_a_pause(
    spec: DecoderSpec, first_latent: int
) -> None:
    """The new worker gets the latents it needs, in the chunks of before; what was published is dropped."""
    worker = FakeWorker(spec)
    missing = SPEC.first_frames - spec.first_frames
    async with serving(worker=worker) as server:
        context, _task = await server.connect(request(latents(5), open=RESUMABLE), request(ack=pb.Ack()))
        assert first_frames(context)[-1] == 16 - missing
        worker.die(GONE)
        context.send(request(latents(1), index=5))
        await settle()
        assert len(worker.handles) == 1
        server.service.worker_ready()
        context.send(request(latents(1), index=6, end_of_latents=True))
        await settle()
        assert context.frames() == [frame(index) for index in range(28 - missing)]
        assert context.done() == pb.Done(num_frames=28 - missing, num_latents=7)
        assert worker.opened[1]["first_latent"] == first_latent
        assert worker.opened[1]["chunks"] == (1,) * (5 - first_latent)
        assert worker.handles[1].pushed[:-2] == worker.handles[0].pushed[first_latent:]


@pytest.mark.asyncio
async def test_workers_that_die_at_others_work_are_not_counted() -> None:
    """However many; nor do they hide those that died at this session's."""
    async with serving() as server:
        context, task = await server.connect(request(latents(2), open=RESUMABLE), request(ack=pb.Ack()))
        for _ in range(5):
            server.worker.die(GONE_ELSEWHERE)
            server.service.worker_ready()
            await settle()
        context.send(request(latents(1)))
        await settle()
        assert context.frames() == [frame(index) for index in range(12)]
        for error in (GONE, GONE_ELSEWHERE):
            server.worker.die(error)
            server.service.worker_ready()
            await settle()
            assert not task.done()
        server.worker.die(GONE)
        assert (await status(context, task))[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.asyncio
@pytest.mark.parametrize("first", [GONE, GONE_BESIDE_OTHERS])
async def test_a_session_is_ended_only_if_it_was_alone_at_work(first: WorkerLost) -> None:
    """It is a suspect after the first death; the reason may be another's as long as another one was at work too."""
    async with serving() as server:
        context, task = await server.connect(request(latents(2), open=RESUMABLE), request(ack=pb.Ack()))
        for error in (first, *[GONE_BESIDE_OTHERS] * 5, GONE_ELSEWHERE):
            server.worker.die(error)
            server.service.worker_ready()
            await settle()
            assert not task.done()
        server.worker.die(GONE)
        assert (await status(context, task))[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.asyncio
async def test_the_next_worker_is_told_of_a_suspect_and_until_when() -> None:
    """It is one from a worker's death at its work until its next new frame."""
    async with serving() as server:
        context, _ = await server.connect(request(latents(2), open=RESUMABLE), request(ack=pb.Ack()))
        for error in (GONE_ELSEWHERE, GONE_BESIDE_OTHERS, GONE_ELSEWHERE):
            server.worker.die(error)
            server.service.worker_ready()
            await settle()
        assert [each["alone_until"] for each in server.worker.opened] == [None, None, 8, 8]
        context.send(request(latents(1)))
        await settle()
        for error in (GONE_ELSEWHERE, GONE):
            server.worker.die(error)
            server.service.worker_ready()
            await settle()
        assert [each["alone_until"] for each in server.worker.opened[4:]] == [None, 12]


@pytest.mark.asyncio
async def test_a_new_frame_clears_a_session_of_the_death_before() -> None:
    async with serving() as server:
        context, task = await server.connect(request(latents(1), open=RESUMABLE), request(ack=pb.Ack()))
        for count in range(2, 6):
            server.worker.die(GONE)
            server.service.worker_ready()
            context.send(request(latents(1)))
            await settle()
            assert len(context.frames()) == 4 * count
        assert not task.done()


@pytest.mark.asyncio
async def test_a_worker_that_died_with_all_done_is_not_asked_again() -> None:
    worker = FakeWorker(automatic=False)
    async with serving(worker=worker) as server:
        context, _task = await server.connect(
            request(latents(1), open=RESUMABLE), request(end_of_latents=True), request(ack=pb.Ack())
        )
        worker.handles[0].tells_end = False
        worker.handles[0].advance()
        worker.die(GONE)
        server.service.worker_ready()
        await settle()
        assert context.done() == pb.Done(num_frames=4, num_latents=1)
        assert len(worker.handles) == 1


@pytest.mark.asyncio
async def test_the_end_of_latents_outlives_a_worker() -> None:
    worker = FakeWorker(automatic=False)
    async with serving(worker=worker) as server:
        context, _ = await server.connect(request(latents(2), open=RESUMABLE), request(end_of_latents=True))
        worker.die(GONE)
        server.service.worker_ready()
        worker.handles[1].advance()
        await settle()
        assert context.done() == pb.Done(num_frames=8, num_latents=2)


@pytest.mark.asyncio
async def test_frames_that_differ_after_a_rebuild_are_data_loss() -> None:
    async with serving() as server:
        context, task = await server.connect(request(latents(2), open=RESUMABLE), request(ack=pb.Ack()))
        server.worker.die(GONE)
        server.worker.first_checksum = 200
        server.service.worker_ready()
        code, text = await status(context, task)
        assert code is grpc.StatusCode.DATA_LOSS
        assert "differ from the first time" in text


@pytest.mark.asyncio
async def test_a_session_too_long_to_be_kept_says_where_to_start_again() -> None:
    async with serving() as server:
        server.service._rules = rules(journal_bytes=1)
        context, task = await server.connect(request(latents(2), open=RESUMABLE), request(ack=pb.Ack()))
        server.worker.die(GONE)
        server.service.worker_ready()
        code, text = await status(context, task)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "start_frame=8" in text


# start_frame


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("spec", "start_frame", "first_latent"),
    [
        *((FINITE, *case) for case in ((0, 0), (3, 0), (11, 0), (14, 1), (16, 2))),
        *((PICTURE_FIRST, *case) for case in ((0, 0), (8, 0), (9, 1), (12, 1), (13, 2))),
    ],
)
async def test_a_session_may_start_at_any_frame(spec: DecoderSpec, start_frame: int, first_latent: int) -> None:
    """The server asks for the latents that it needs, and frames before the wanted one are not sent."""
    worker = FakeWorker(spec)
    async with serving(worker=worker) as server:
        started = opening(mode=pb.MODE_EXPLICIT, start_frame=start_frame, num_latents=6, window_frames=64)
        context, task = await server.connect(request(open=started))
        assert opened(context).next_latent == first_latent
        assert opened(context).history_latents == 2
        context.send(request(latents(6 - first_latent), index=first_latent, end_of_latents=True))
        await settle()
        assert first_frames(context)[0] == start_frame
        assert context.done() == pb.Done(num_frames=spec.num_frames(6), num_latents=6)
        assert (worker.opened[0]["first_latent"], worker.opened[0]["num_latents"]) == (first_latent, 6 - first_latent)
        context.half_close()
        await asyncio.wait_for(task, 5)


@pytest.mark.asyncio
async def test_a_fault_of_the_servers_own_is_not_a_lost_connection() -> None:
    """The call was used after its end: who knows what state the session is in."""
    async with serving() as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        context.write_error = grpc.aio.UsageError("the call has ended")
        context.send(request(latents(1)))
        assert (await status(context, task))[0] is grpc.StatusCode.INTERNAL
        assert server.admission.num_sessions == 0
