"""The supervisor with a real worker process on the GPU: frames as on the CPU, and a kill in mid-stream."""

import asyncio
import os
import signal

import numpy as np
import pytest

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.errors import Unavailable
from framehaul_pipeline.models import TINY_SPEC
from framehaul_pipeline.supervisor import Supervisor, WorkerState
from tests.integration.pipeline.test_supervisor import GEOMETRY, Recorder, StateLog, latents, open_session, push

pytestmark = pytest.mark.needs_cuda

NUM_LATENTS = 8
FRAMES_BYTES = NUM_LATENTS * 4 * GEOMETRY.height * 8 * GEOMETRY.width * 8 * 3


async def decode(supervisor: Supervisor, seed: int) -> bytes:
    events = Recorder()
    session = open_session(supervisor, events)
    push(session, latents(NUM_LATENTS, seed))
    session.allow(NUM_LATENTS)
    session.end()
    await events.ended()
    assert len(events.frames) == FRAMES_BYTES
    return events.frames


@pytest.mark.asyncio
async def test_pictures_are_those_of_the_cpu() -> None:
    """Half precision moves a level by little, and no frame anywhere else."""
    pictures = []
    for device in ("cpu", "cuda"):
        supervisor = Supervisor(WorkerConfig(device=device, max_pixels=64 * 64), (TINY_SPEC,))
        await supervisor.start()
        pictures.append(np.frombuffer(await decode(supervisor, seed=1), np.uint8).astype(int))
        await supervisor.aclose()
    difference = np.abs(pictures[0] - pictures[1])
    assert difference.max() <= 6
    assert difference.mean() < 0.5


@pytest.mark.asyncio
async def test_sessions_side_by_side_and_a_kill() -> None:
    """Eight sessions at once give what each gives alone; a killed worker is replaced and gives the same again."""
    states = StateLog()
    supervisor = Supervisor(WorkerConfig(device="cuda", max_pixels=64 * 64), (TINY_SPEC,), on_state=states)
    await supervisor.start()
    alone = [await decode(supervisor, seed) for seed in range(8)]
    together = await asyncio.gather(*(decode(supervisor, seed) for seed in range(8)))
    for one, other in zip(alone, together, strict=True):
        first, second = np.frombuffer(one, np.uint8).astype(int), np.frombuffer(other, np.uint8).astype(int)
        assert np.abs(first - second).max() <= 2  # chunk sizes may differ, and with them the kernels

    events = Recorder()
    session = open_session(supervisor, events)
    push(session, latents(NUM_LATENTS, seed=0))
    session.allow(NUM_LATENTS)
    await events.received(1)
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    assert isinstance(await events.failed(), Unavailable)
    await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)
    again = np.frombuffer(await decode(supervisor, seed=0), np.uint8).astype(int)
    assert np.abs(again - np.frombuffer(alone[0], np.uint8).astype(int)).max() <= 2
    await supervisor.aclose()
