"""A worker that is killed, or stops, at each point of a chunk's life."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import pytest_asyncio

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.models.model import TINY
from framehaul_server.session import decoding
from tests.faults.harm import HANGS, Harm, harmful
from tests.faults.worker_loss import noted_deaths
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.clips import CHANNELS, SIZE, latents, opening
from tests.support.running_app import RunningApp, running_app
from tests.support.supervised import lose_patience
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEADLY = [harm for harm in Harm if harm.name.startswith(("KILL_", "STOP_")) or harm is Harm.HANG]
NUM_DEATHS = 2
"""End a session here: each point is met by the first worker and by one that replays. Of three, as it is for users, tell
`test_others_outlive_a_session_that_kills_workers` and the failure table."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[RunningApp]:
    async with running_app("--max-restarts", "1000", models=(harmful(TINY),)) as running:
        yield running


def hangs(worker: int) -> bool:
    """Whether it was stopped, or has a thread that says so of itself."""
    try:
        process = psutil.Process(worker)
        threads = [Path(f"/proc/{worker}/task/{each.id}/comm").read_text().strip() for each in process.threads()]
        return process.status() == psutil.STATUS_STOPPED or HANGS in threads
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def hangs_noticed(app: RunningApp) -> Iterator[None]:
    """Each worker that hangs counts as hung soon."""

    async def watch() -> None:
        noticed = 0
        while True:
            worker = app.supervisor.worker_pid
            if worker != noticed and hangs(worker):
                noticed = worker
                lose_patience(app.supervisor)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


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
        code, details = await stream.status()
        return code, details, stream.num_frames


@pytest.mark.parametrize("harm", DEADLY, ids=lambda harm: harm.name.lower())
async def test_worker_lost_at(
    app: RunningApp, harm: Harm, recovered: Callable[[str, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session whose latents kill the next worker too hears of it, with the frames published before.

    Nothing is kept; the next session works. The point of loss is that of the second message's chunk.
    """
    monkeypatch.setattr(decoding, "_DEATHS_ALONE", NUM_DEATHS)
    await app.ready()
    app.remember()
    with noted_deaths() as deaths, hangs_noticed(app):
        code, details, num_frames = await do_harm(app, harm)
    assert code is grpc.StatusCode.ABORTED
    assert "three worker processes died" in details
    assert num_frames in ((8, 12) if harm.name.endswith("PUBLISHED") else (8,))
    recovered(f"worker {harm.name.lower()} noticed -> next frame (no standby)", await app.first_frames_s())
    # Frames that the second worker was the first to publish are progress: then one more dies.
    assert len(deaths) - NUM_DEATHS in ((0, 1) if harm.name.endswith("PUBLISHED") else (0,))
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
            code, _ = await culprit.status()
        assert (code, culprit.num_frames) == (grpc.StatusCode.ABORTED, 0)
        assert await queued.read_to_end() == 80
        await waiting.send(latents(2))
        assert await waiting.finish() == 16
        return deaths


async def test_others_outlive_a_session_that_kills_workers(app: RunningApp) -> None:
    await app.ready()
    app.remember()
    assert len(await kill_beside_others(app)) == 3
    await app.expect_idle()
