"""A supervisor with a real worker process and no server around it: sessions, their events, their frames."""

import asyncio
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import numpy.typing as npt

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.errors import PipelineError
from framehaul_pipeline.link.messages import Published
from framehaul_pipeline.scheduling.chunk_limits import ChunkLimits
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.supervision.epoch import WorkerSession, WorkerStatistics
from framehaul_pipeline.supervision.supervisor import Supervisor, WorkerState
from tests.support.fake_decoder import fake_opening
from tests.support.waiting import eventually

GEOMETRY = Geometry(channels=16, height=4, width=6)
FRAME_BYTES = 32 * 48 * 3
CONFIG = WorkerConfig(
    device="cpu",
    max_pixels=64 * 64,
    num_slots=3,
    chunk_latents=2,
    num_inlet_chunks=6,
    standby=False,
    device_memory_bytes=512 << 20,
)
IDLE = WorkerStatistics(
    num_slots=3,
    num_slots_held=0,
    num_inlet_slots=12,
    num_inlet_free=12,
    num_sessions=0,
    session_memory_bytes=512 << 20,
    session_memory_used_bytes=0,
    num_parked=0,
)
Latents = npt.NDArray[np.float32]


class Recorder:
    """A session's events."""

    def __init__(self) -> None:
        self.frames = b""
        self.last_view = memoryview(b"")
        self.num_fed = 0
        self.error: PipelineError | None = None
        self.num_frames = -1
        self.changed = asyncio.Event()

    def on_fed(self, num_fed: int) -> None:
        self.num_fed = num_fed

    def on_published(self, published: Published, frames: memoryview) -> None:
        assert published.first_frame * published.frame_bytes == len(self.frames)
        assert published.num_frames * published.frame_bytes == len(frames)
        self.frames += frames
        self.last_view = frames
        self.changed.set()

    def on_ended(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self.changed.set()

    def on_failed(self, error: PipelineError) -> None:
        self.error = error
        self.changed.set()

    async def ended(self) -> None:
        while self.num_frames < 0:
            assert self.error is None, self.error
            self.changed.clear()
            await self.changed.wait()

    async def received(self, num_bytes: int) -> None:
        while len(self.frames) < num_bytes:
            assert self.error is None, self.error
            self.changed.clear()
            await self.changed.wait()

    async def failed(self) -> PipelineError:
        while self.error is None:
            self.changed.clear()
            await self.changed.wait()
        return self.error


class StateLog:
    def __init__(self, *states: WorkerState) -> None:
        self.states = list(states)
        self._changed = asyncio.Event()

    def __call__(self, state: WorkerState) -> None:
        self.states.append(state)
        self._changed.set()

    async def reached(self, *states: WorkerState) -> None:
        while self.states != list(states):
            self._changed.clear()
            await self._changed.wait()


def latents(num_latents: int, seed: int) -> Latents:
    shape = (num_latents, GEOMETRY.channels, GEOMETRY.height, GEOMETRY.width)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def open_session(supervisor: Supervisor, events: Recorder) -> WorkerSession:
    return supervisor.open_session(fake_opening(model="tiny", geometry=GEOMETRY), events)


def push(session: WorkerSession, clip: Latents) -> None:
    for latent in clip:
        session.send_latent(memoryview(latent.tobytes()))


def start_decoding(supervisor: Supervisor, events: Recorder, num_latents: int, seed: int = 1) -> None:
    """Open a session and give it a whole clip."""
    session = open_session(supervisor, events)
    push(session, latents(num_latents, seed))
    session.allow(num_latents)
    session.end_latents()


async def decode(supervisor: Supervisor, num_latents: int, seed: int = 1) -> bytes:
    """A clip's frames."""
    events = Recorder()
    start_decoding(supervisor, events, num_latents, seed)
    await events.ended()
    assert events.num_frames == 4 * num_latents
    assert len(events.frames) == events.num_frames * FRAME_BYTES
    return events.frames


async def imported(supervisor: Supervisor) -> int:
    """Wait until a standby has imported everything, which it says in its first answer; gives its process."""

    def answered() -> bool:
        process = supervisor._standby._process
        return process is not None and bool(select.select([process.connection], [], [], 0)[0])

    await eventually(answered, lambda: supervisor.standby_pid)
    pid = supervisor.standby_pid
    assert pid is not None
    return pid


def lose_patience(supervisor: Supervisor) -> None:
    """Let the worker of now count as hung soon, once a test knows that it hangs.

    Before that a server has the patience that it has for users: a machine that stalls isn't taken for a worker that
    hangs.
    """
    watchdog = supervisor._current()._watchdog
    watchdog.stop()
    watchdog._chunk_timeout_s, watchdog._limits = 0.2, ChunkLimits(0.02)
    watchdog.start()


@asynccontextmanager
async def supervised(config: WorkerConfig = CONFIG) -> AsyncIterator[tuple[Supervisor, StateLog]]:
    """A supervisor that has started; closing it twice is fine."""
    states = StateLog()
    supervisor = Supervisor(config, on_state=states)
    try:
        await supervisor.start()
        yield supervisor, states
    finally:
        await supervisor.aclose()
        await supervisor.aclose()
