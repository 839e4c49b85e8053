"""A worker that dies once: its sessions go on with the next one, and new ones wait for that."""

from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul.v1 import frames_pb2_grpc
from framehaul_client import FrameClient
from framehaul_pipeline.models.model import TINY_SPEC
from tests.faults.faulty_worker import Harm
from tests.faults.worker_loss import NUM_LATENTS, clip_with, fragile_app, harming, lose_worker, replay_differs
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.clips import latents, opening
from tests.support.running_app import running_app
from tests.support.waiting import eventually


@pytest.mark.asyncio
async def test_a_session_goes_on_with_the_standby(tmp_path: Path, recovered: Callable[[str, float], None]) -> None:
    """Every frame once, bit for bit."""
    async with fragile_app("cpu", tmp_path / "once") as app:
        took_s = await lose_worker(app, Harm.KILL_COPYING, tmp_path / "once")
    recovered("worker killed in mid-chunk -> next frame (standby)", took_s)


@pytest.mark.asyncio
async def test_sessions_that_are_opened_while_the_worker_restarts_wait_for_it() -> None:
    """For clients that try once: one before the server can know, one when it does, and a `Render` call."""
    async with running_app() as app, grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as channel:
        lost = app.supervisor.worker_pid
        app.worker.kill()
        early, late = AsyncCall(channel), AsyncCall(channel)
        await early.send(latents(2), open=opening(), end_of_latents=True)
        await eventually(lambda: app.supervisor.worker_pid != lost, lambda: app.supervisor.state)
        app.worker.suspend()
        await late.send(latents(2), open=opening(), end_of_latents=True)
        assert await late.read()
        render = frames_pb2_grpc.FrameServiceStub(channel).Render
        rendering = aiter(render(pb.RenderRequest(open=opening(), latents=latents(2))))
        assert (await anext(rendering)).HasField("queued")
        app.worker.resume()
        assert [answer async for answer in rendering][-1].done.num_frames == 8
        for stream in (early, late):
            assert await stream.read_to_end() == 8
        assert late.positions
        assert app.supervisor.epoch == 2


@pytest.mark.asyncio
async def test_a_replay_that_differs_costs_a_new_session(tmp_path: Path) -> None:
    """The client goes on at the first frame that it lacks."""
    async with fragile_app("cpu", tmp_path / "once") as app:
        clip = clip_with(Harm.KILL_COPYING)
        with replay_differs(), harming(tmp_path / "once"):
            async with FrameClient(app.target) as client, client.session(clip, window_frames=16) as session:
                frames = [frame.copy() async for frame in session]
                assert session.statistics.num_reconnects == 1
        assert len(frames) == TINY_SPEC.num_frames(NUM_LATENTS)
        async with FrameClient(app.target) as client, client.session(clip) as session:
            whole = [frame.copy() async for frame in session]
        assert np.abs(np.stack(frames).astype(int) - np.stack(whole)).max() <= 1  # in other chunks
