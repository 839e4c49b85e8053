"""Where in its clip a session's decoding starts, and how it goes on with the next worker; with fakes around it."""

import asyncio

import grpc
import msgspec
import pytest

from framehaul.causes import Cause
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import AtWork, WorkerLost
from framehaul_pipeline.spec import DecoderSpec
from tests.support.driven_service import RESUMABLE, first_frames, opened, serving, settle, status
from tests.support.fakes import FINITE, PICTURE_FIRST, SPEC, FakeWorker, frame, latents, opening, request


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
        assert (worker.opened[0].first_latent, worker.opened[0].num_latents) == (first_latent, 6)
        context.half_close()
        await asyncio.wait_for(task, 60)


GONE = WorkerLost(at_work=AtWork.ALONE)
GONE_BESIDE_OTHERS = WorkerLost(at_work=AtWork.BESIDE_OTHERS)
GONE_ELSEWHERE = WorkerLost(at_work=AtWork.NO)
"""At work for another session, or for none."""


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
        assert worker.opened[1].first_latent == first_latent
        assert worker.opened[1].chunks == (1,) * (5 - first_latent)
        assert worker.handles[1].pushed[:-2] == worker.handles[0].pushed[first_latent:]


@pytest.mark.asyncio
@pytest.mark.parametrize("num_latents", [2, 6])
async def test_blanks_behind_the_last_latent_outlive_a_worker(num_latents: int) -> None:
    """They go as the client's window allows, and the next worker gets them again; to the client they are no latents."""
    worker = FakeWorker(msgspec.structs.replace(SPEC, first_frames=1, lookahead_latents=3, drains=True))
    num_frames = 4 * num_latents - 3
    async with serving(worker=worker) as server:
        started = opening(mode=pb.MODE_EXPLICIT, resume=pb.Resume(), window_frames=4)
        context, _task = await server.connect(request(open=started))
        context.send(request(latents(num_latents), end_of_latents=True))
        await settle()
        assert len(context.frames()) == 1, "the window has room for 4: not for the next latent's too"
        (view,) = server.service.views()
        assert (view.num_fed, view.waiting_for) == (min(num_latents, 4), Cause.CLIENT_WINDOW)
        worker.die(GONE)
        server.service.worker_ready()
        for received in range(1, num_frames + 1):
            context.send(request(ack=pb.Ack(next_frame=received, window_frames=4)))
            await settle()
        assert context.frames() == [frame(index) for index in range(num_frames)]
        assert context.done() == pb.Done(num_frames=num_frames, num_latents=num_latents)
        assert worker.handles[1].pushed[num_latents:] == [b""] * 3


@pytest.mark.asyncio
async def test_a_clip_without_latents_has_no_blanks() -> None:
    worker = FakeWorker(msgspec.structs.replace(SPEC, first_frames=1, lookahead_latents=3, drains=True))
    async with serving(worker=worker) as server:
        context, _task = await server.connect(request(open=RESUMABLE), request(end_of_latents=True))
        assert context.done() == pb.Done()
        assert worker.handles[0].pushed == []


@pytest.mark.asyncio
async def test_workers_that_die_at_others_work_are_not_counted() -> None:
    """However many; nor do they hide those that died at this session's."""
    async with serving() as server:
        context, task = await server.connect(request(latents(2), open=RESUMABLE), request(ack=pb.Ack()))
        await server.replace_worker(*[GONE_ELSEWHERE] * 5)
        context.send(request(latents(1)))
        await settle()
        assert context.frames() == [frame(index) for index in range(12)]
        await server.replace_worker(GONE, GONE_ELSEWHERE, GONE)
        assert not task.done()
        server.worker.die(GONE)
        assert (await status(context, task))[0] is grpc.StatusCode.ABORTED


@pytest.mark.asyncio
async def test_a_session_is_ended_at_the_third_death_that_it_was_alone_at() -> None:
    """The reason may be another's as long as another one was at work too, and two may be chance, by a hand outside."""
    async with serving() as server:
        context, task = await server.connect(request(latents(2), open=RESUMABLE), request(ack=pb.Ack()))
        await server.replace_worker(GONE, *[GONE_BESIDE_OTHERS] * 5, GONE_ELSEWHERE, GONE)
        assert not task.done()
        server.worker.die(GONE)
        assert (await status(context, task))[0] is grpc.StatusCode.ABORTED


@pytest.mark.asyncio
async def test_the_next_worker_is_told_of_a_suspect_and_until_when() -> None:
    """It is one from a worker's death at its work until its next new frame."""
    async with serving() as server:
        context, _ = await server.connect(request(latents(2), open=RESUMABLE), request(ack=pb.Ack()))
        await server.replace_worker(GONE_ELSEWHERE, GONE_BESIDE_OTHERS, GONE_ELSEWHERE)
        assert [each.alone_until for each in server.worker.opened] == [None, None, 8, 8]
        context.send(request(latents(1)))
        await settle()
        await server.replace_worker(GONE_ELSEWHERE, GONE)
        assert [each.alone_until for each in server.worker.opened[4:]] == [None, 12]


@pytest.mark.asyncio
async def test_a_new_frame_clears_a_session_of_the_deaths_before() -> None:
    async with serving() as server:
        context, task = await server.connect(request(latents(1), open=RESUMABLE), request(ack=pb.Ack()))
        for count in range(2, 6):
            await server.replace_worker(GONE, GONE)
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
    async with serving(journal_bytes=1) as server:
        context, task = await server.connect(request(latents(2), open=RESUMABLE), request(ack=pb.Ack()))
        await server.replace_worker(GONE)
        code, text = await status(context, task)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "start_frame=8" in text
