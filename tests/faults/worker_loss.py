"""A worker is killed in the middle of a chunk under the reference client, on any device; the standby takes over."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framehaul_client import FrameClient
from framehaul_pipeline.errors import DataLoss
from framehaul_pipeline.models.model import TINY, TINY_SPEC, Model
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.spec import DecoderSpec
from framehaul_server.core.journal import Journal
from tests.faults.chunks import decode_in, noted
from tests.faults.harm import Harm, harmful
from tests.support.clips import SIZE, Clip, make_clip
from tests.support.running_app import RunningApp, running_app

NUM_LATENTS = 40
HARM_AT = 25
"""The latent that kills the worker, in a clip of so many."""
CHUNK_LATENTS = 3


@asynccontextmanager
async def fragile_app(device: str, harm_once: Path, *others: Model) -> AsyncIterator[RunningApp]:
    """A server of `tiny` and others, with a standby.

    The size that `lose_worker` streams is warmed up, so that CUDA replays its graphs.
    """
    size = SIZE * TINY_SPEC.spatial_factor
    options = ("--device", device, "--standby", "--max-restarts", "1000", "--warm-up", f"{size}x{size}")
    models = tuple(harmful(model, once=harm_once) for model in (TINY, *others))
    async with running_app(*options, "--chunk-latents", str(CHUNK_LATENTS), models=models) as app:
        yield app


async def lose_worker(
    app: RunningApp, harm: Harm, harm_once: Path, spec: DecoderSpec = TINY_SPEC, harm_at: int = HARM_AT
) -> float:
    """Stream a clip with one latent that kills the worker which decodes it first; otherwise it is decoded as any.

    Every frame comes once, bit for bit as one worker decodes them in the same chunks; nothing is left.

    Returns:
        Seconds from the worker's death to the first frame that had not been published, at the client.
    """
    clip = clip_with(harm, harm_at)
    await app.warm()
    app.remember()
    worker, standby = app.supervisor.worker_pid, app.supervisor.standby_pid
    clock = asyncio.get_running_loop().time
    arrived_s, frames = [], []
    with noted(app) as notes, time_of_death(worker) as died, harming(harm_once):
        async with (
            FrameClient(app.target) as client,
            client.session(clip, model=spec.name, window_frames=16) as session,
        ):
            async for frame in session:
                arrived_s.append(clock())
                frames.append(frame.copy())
            assert session.statistics.num_reconnects == 0
    assert app.supervisor.worker_pid == standby != worker
    first, known = notes.check_replay(spec)
    assert first < known <= harm_at
    assert first > 0 or spec.history_latents is None or spec.history_latents >= known - CHUNK_LATENTS
    assert np.array_equal(np.stack(frames), await decode_in(app, spec, clip, tuple(notes.chunks.values())))
    await app.expect_idle()
    return arrived_s[spec.num_frames(known)] - died.result()


def clip_with(harm: Harm, harm_at: int = HARM_AT) -> Clip:
    """Latents, one of which is harmful."""
    clip = make_clip(harm_at + NUM_LATENTS - HARM_AT, seed=3)
    clip[harm_at, 0, 0, 0] = harm
    return clip


@contextmanager
def harming(once: Path) -> Iterator[None]:
    """Let one worker do harm: it does meanwhile."""
    once.touch()
    yield
    assert not once.exists()


@contextmanager
def replay_differs() -> Iterator[None]:
    """Once, the frames that are decoded again aren't those of the first time, as when other kernels are chosen."""
    compare = Journal._compare

    def differ(journal: Journal, known: Any, first_frame: int, crc32c: tuple[int, ...]) -> None:
        try:
            compare(journal, known, first_frame, tuple(each ^ 1 for each in crc32c))
        except DataLoss:
            patch.undo()
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "_compare", differ)
        yield
        assert Journal._compare is compare, "no frame was decoded again"


@contextmanager
def noted_deaths() -> Iterator[list[frozenset[int]]]:
    """Whose work each worker was at when it died: the worker's sessions.

    Deaths at work for nobody are left out, since they are blamed on nobody. A busy machine brings them: a worker may be
    too slow for a short `chunk_timeout_s`, or be killed for a published chunk after its slot came back.
    """
    deaths: list[frozenset[int]] = []
    read = Ring.noted

    def noted(ring: Ring) -> frozenset[int]:
        at_work = read(ring)
        if at_work:
            deaths.append(at_work)
        return at_work

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ring, "noted", noted)
        yield deaths


@contextmanager
def time_of_death(pid: int) -> Iterator[asyncio.Future[float]]:
    """When a process ended, on the event loop's clock."""
    loop = asyncio.get_running_loop()
    died = loop.create_future()
    descriptor = os.pidfd_open(pid)

    def note() -> None:
        loop.remove_reader(descriptor)
        died.set_result(loop.time())

    loop.add_reader(descriptor, note)
    try:
        yield died
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
