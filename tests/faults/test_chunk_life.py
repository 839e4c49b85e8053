"""A worker that is killed, or stops, at each point of a chunk's life."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import numpy as np
import pytest
import pytest_asyncio

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.models.model import TINY
from tests.faults.harm import Harm, harmful
from tests.faults.worker_loss import noted_deaths
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.clips import CHANNELS, SIZE, latents, opening
from tests.support.running_app import RunningApp, running_app
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEADLY = [harm for harm in Harm if harm.name.startswith(("KILL_", "STOP_")) or harm is Harm.HANG]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[RunningApp]:
    """Short timeouts, so that a hang of a shape not seen yet is noticed after 12 times 0.5 s."""
    options = ("--max-restarts", "1000", "--chunk-timeout", "0.5")
    async with running_app(*options, models=(harmful(TINY),)) as running:
        yield running


def harmful_latent(harm: Harm) -> bytes:
    """A latent that carries it out."""
    latent = np.zeros((CHANNELS, SIZE, SIZE), np.float16)
    latent[0, 0, 0] = harm
    return latent.tobytes()


async def do_harm(app: RunningApp, harm: Harm) -> tuple[grpc.StatusCode, str, int]:
    """Have two latents decoded, then do `harm`; gives the status and the number of frames."""
    async with grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as channel:
        stream = AsyncCall(channel)
        await stream.send(open=opening(normalized=False))
        await stream.send(latents(2))
        await stream.read_frames(8)
        await stream.send(harmful_latent(harm))
        code, details = await asyncio.wait_for(stream.status(), 60)
        return code, details, stream.num_frames


@pytest.mark.parametrize("harm", DEADLY, ids=lambda harm: harm.name.lower())
async def test_worker_lost_at(app: RunningApp, harm: Harm, recovered: Callable[[str, float], None]) -> None:
    """A session whose latents kill the next worker too hears of it, with the frames published before.

    Nothing is kept; the next session works. The point of loss is that of the second message's chunk.
    """
    await app.ready()
    app.remember()
    with noted_deaths() as deaths:
        code, details, num_frames = await do_harm(app, harm)
    assert code is grpc.StatusCode.ABORTED
    assert "three worker processes died" in details
    assert num_frames in ((8, 12) if harm.name.endswith("PUBLISHED") else (8,))
    recovered(f"worker {harm.name.lower()} noticed -> next frame (no standby)", await app.first_frames_s())
    # Frames that the second worker was the first to publish are progress: then a fourth one dies.
    assert len(deaths) in ((3, 4) if harm.name.endswith("PUBLISHED") else (3,))
    await app.expect_idle()


async def kill_beside_others(app: RunningApp) -> list[frozenset[int]]:
    """One session kills three workers in front of one that waits for its client, and of one whose latents wait.

    Gives the deaths.
    """
    async with grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as channel:
        waiting, queued, culprit = AsyncCall(channel), AsyncCall(channel), AsyncCall(channel)
        await waiting.send(latents(2), open=opening(mode=pb.MODE_EXPLICIT, window_frames=64))
        await waiting.read_frames(8)
        await eventually(lambda: not app.at_work(), app.at_work)
        await queued.send(open=opening())
        await culprit.send(open=opening(normalized=False, priority=1))
        for stream in (queued, culprit):
            assert await stream.read()  # opened
        with noted_deaths() as deaths:
            await culprit.send(harmful_latent(Harm.KILL_DECODING))
            await queued.send(latents(20), end_of_latents=True)
            code, _ = await asyncio.wait_for(culprit.status(), 60)
        assert (code, culprit.num_frames) == (grpc.StatusCode.ABORTED, 0)
        assert await asyncio.wait_for(queued.read_to_end(), 60) == 80
        await waiting.send(latents(2))
        assert await waiting.finish() == 16
        return deaths


async def test_others_outlive_a_session_that_kills_workers(app: RunningApp) -> None:
    await app.ready()
    app.remember()
    assert len(await kill_beside_others(app)) == 3
    await app.expect_idle()
