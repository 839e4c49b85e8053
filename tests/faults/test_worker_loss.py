"""A worker that dies once: its sessions go on with the next one, and new ones wait for that."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio

from framehaul.v1 import frames_pb2 as pb
from framehaul.v1 import frames_pb2_grpc
from framehaul_client import FrameClient
from framehaul_pipeline.models.model import TINY_SPEC
from tests.faults.harm import Harm
from tests.faults.worker_loss import NUM_LATENTS, clip_with, fragile_app, harming, lose_worker, replay_differs
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.clips import decode, latents, opening
from tests.support.running_app import RunningApp, running_app
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harm") / "once"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(once: Path) -> AsyncIterator[RunningApp]:
    async with fragile_app("cpu", once) as running:
        yield running


async def test_a_session_goes_on_with_the_standby(
    app: RunningApp, once: Path, recovered: Callable[[str, float], None]
) -> None:
    """Every frame once, bit for bit."""
    took_s = await lose_worker(app, Harm.KILL_COPYING, once)
    recovered("worker killed in mid-chunk -> next frame (standby)", took_s)


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


async def test_a_replay_that_differs_costs_a_new_session(app: RunningApp, once: Path) -> None:
    """The client goes on at the first frame that it lacks."""
    await app.warm()
    clip = clip_with(Harm.KILL_COPYING)
    with replay_differs(), harming(once):
        async with FrameClient(app.target) as client, client.session(clip, window_frames=16) as session:
            frames = np.stack([frame async for frame in session])
            assert session.statistics.num_reconnects == 1
    assert len(frames) == TINY_SPEC.num_frames(NUM_LATENTS)
    whole = await decode(app.target, clip)
    assert np.abs(frames.astype(int) - whole).max() <= 1  # in other chunks
