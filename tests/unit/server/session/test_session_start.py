"""A session that starts in the middle of its clip, with fakes around it."""

import asyncio

import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.spec import DecoderSpec
from tests.support.driven_service import first_frames, opened, serving, settle
from tests.support.fakes import FINITE, PICTURE_FIRST, FakeWorker, latents, opening, request


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
        await asyncio.wait_for(task, 5)
