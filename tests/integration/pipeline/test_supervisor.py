"""The supervisor with a real worker process on the CPU: frames, deaths and slots."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from framehaul.formats import LatentDtype, PixelFormat
from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.errors import PipelineError, Unavailable
from framehaul_pipeline.link.messages import ToServer
from framehaul_pipeline.models.model import TINY_SPEC
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.supervision.epoch import Epoch
from framehaul_pipeline.supervision.lease import FrameLease
from framehaul_pipeline.supervision.supervisor import (
    Supervisor,
    WorkerFailed,
    WorkerSession,
    WorkerState,
    WorkerStatistics,
)

GEOMETRY = Geometry(channels=16, height=4, width=6)
CONFIG = WorkerConfig(device="cpu", max_pixels=64 * 64, num_slots=3, chunk_latents=2, num_inlet_chunks=6)
IDLE = WorkerStatistics(
    num_slots=3,
    num_leased=0,
    num_inlet_slots=12,
    num_inlet_free=12,
    num_sessions=0,
    session_memory_bytes=0,
    session_memory_used_bytes=0,
    num_parked=0,
)
Latents = npt.NDArray[np.float32]


class Recorder:
    """A session's events; keeps leases while `hold` is true."""

    def __init__(self, *, hold: bool = False) -> None:
        self.hold = hold
        self.leases: list[FrameLease] = []
        self.frames = b""
        self.num_fed = 0
        self.error: PipelineError | None = None
        self.num_frames = -1
        self.changed = asyncio.Event()

    def on_opened(self) -> None:
        pass

    def on_fed(self, num_fed: int) -> None:
        self.num_fed = num_fed

    def on_published(self, lease: FrameLease) -> None:
        assert lease.first_frame * lease.frame_bytes == len(self.frames)
        self.frames += lease.view
        if self.hold:
            self.leases.append(lease)
        else:
            lease.release()
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
    def __init__(self) -> None:
        self.states: list[WorkerState] = []
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
    return supervisor.open(
        model="tiny",
        geometry=GEOMETRY,
        num_latents=None,
        dtype=LatentDtype.FLOAT32,
        normalized=False,
        pixel_format=PixelFormat.RGB24,
        priority=0,
        events=events,
    )


def push(session: WorkerSession, clip: Latents) -> None:
    for latent in clip:
        session.push(memoryview(latent.tobytes()))


@pytest_asyncio.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(CONFIG, (TINY_SPEC,))
    await supervisor.start()
    yield supervisor
    await supervisor.aclose()
    await supervisor.aclose()


@pytest.mark.asyncio
async def test_interleaved_sessions_get_what_each_gets_alone(supervisor: Supervisor) -> None:
    """Bit for bit, when chunks have the same boundaries; and every slot comes back."""
    clips = [latents(5, seed) for seed in (1, 2)]
    alone = []
    for clip in clips:
        events = Recorder()
        session = open_session(supervisor, events)
        for index in range(5):  # one latent at a time: chunks of one
            push(session, clip[index : index + 1])
            session.allow(index + 1)
            await events.received((index + 1) * 4 * 32 * 48 * 3)
        session.end()
        await events.ended()
        assert events.num_frames == 20
        alone.append(events.frames)
    together = [Recorder(), Recorder()]
    sessions = [open_session(supervisor, events) for events in together]
    for index in range(5):
        for session, events, clip in zip(sessions, together, clips, strict=True):
            push(session, clip[index : index + 1])
            session.allow(index + 1)
            await events.received((index + 1) * 4 * 32 * 48 * 3)
    for session in sessions:
        session.end()
    for events in together:
        await events.ended()
    assert [events.frames for events in together] == alone
    assert alone[0] != alone[1]
    assert supervisor.statistics() == IDLE


@pytest.mark.asyncio
async def test_chunk_size_does_not_change_the_pictures(supervisor: Supervisor) -> None:
    """Within one level after rounding, whatever the chunks."""
    clip = latents(7, seed=3)
    pictures = []
    for step in (1, 7):
        events = Recorder()
        session = open_session(supervisor, events)
        for start in range(0, 7, step):
            push(session, clip[start : start + step])
            session.allow(start + step)
            if step == 1:
                await events.received((start + 1) * 4 * 32 * 48 * 3)
        session.end()
        await events.ended()
        pictures.append(np.frombuffer(events.frames, np.uint8).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.asyncio
async def test_latents_outside_the_window_stay_with_the_server(supervisor: Supervisor) -> None:
    """No inlet slot is held for frames that the client hasn't room for; a close gives everything back."""
    events = Recorder()
    session = open_session(supervisor, events)
    push(session, latents(4, seed=4))
    session.allow(1)
    await events.received(4 * 32 * 48 * 3)
    assert events.num_fed == 1
    assert supervisor.statistics().num_inlet_free == 12
    session.close()
    session.close()
    push(session, latents(1, seed=4))
    session.allow(9)
    session.end()
    assert supervisor.statistics() == IDLE


@pytest.mark.asyncio
async def test_a_killed_worker_fails_its_sessions_and_is_replaced(supervisor: Supervisor) -> None:
    """Leases of the dead epoch stay readable until they are released; the next session works, on fresh rings."""
    states = StateLog()
    supervisor._on_state = states
    events = Recorder(hold=True)
    session = open_session(supervisor, events)
    push(session, latents(1, seed=5))
    session.allow(1)
    await events.received(1)
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    assert isinstance(await events.failed(), Unavailable)
    with pytest.raises(Unavailable, match="restarting"):
        open_session(supervisor, Recorder())
    session.push(memoryview(b""))
    session.close()
    await states.reached(WorkerState.RESTARTING, WorkerState.READY)
    assert supervisor.epoch == 2
    assert bytes(events.leases[0].view) == events.frames
    events.leases[0].release()

    events = Recorder()
    session = open_session(supervisor, events)
    push(session, latents(2, seed=6))
    session.allow(2)
    session.end()
    await events.ended()
    assert events.num_frames == 8
    assert supervisor.statistics() == IDLE


@pytest.mark.asyncio
async def test_a_worker_that_dies_too_often_is_given_up() -> None:
    """Past the restart budget, sessions hear that there is no worker."""
    states = StateLog()
    config = WorkerConfig(device="cpu", max_pixels=64, max_restarts=0)
    supervisor = Supervisor(config, (TINY_SPEC,), on_state=states)
    await supervisor.start()
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.FAILED)
    with pytest.raises(Unavailable, match="failed"):
        open_session(supervisor, Recorder())
    await supervisor.aclose()


@pytest.mark.asyncio
async def test_a_worker_that_cannot_start_says_so() -> None:
    """No such device here: the supervisor doesn't wait for a time-out."""
    supervisor = Supervisor(WorkerConfig(device="cuda:63", max_pixels=64), (TINY_SPEC,))
    with pytest.raises(WorkerFailed, match="exit code 70"):
        await supervisor.start()
    await supervisor.aclose()


@pytest.mark.asyncio
async def test_a_worker_that_is_not_ready_in_time_is_killed() -> None:
    """Importing torch takes longer than this."""
    supervisor = Supervisor(WorkerConfig(device="cpu", max_pixels=64, startup_timeout_s=0.05), (TINY_SPEC,))
    with pytest.raises(WorkerFailed, match=r"not ready within"):
        await supervisor.start()
    await supervisor.aclose()


@pytest.mark.asyncio
async def test_a_worker_that_ends_as_soon_as_it_is_ready_is_not_taken_for_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first message and its end may arrive together."""
    states = StateLog()
    supervisor = Supervisor(CONFIG, (TINY_SPEC,), on_state=states)
    dispatch = Epoch._dispatch

    def dispatch_then_lose(epoch: Epoch, message: ToServer) -> None:
        dispatch(epoch, message)
        epoch.kill()
        epoch._lose()

    monkeypatch.setattr(Epoch, "_dispatch", dispatch_then_lose)
    with pytest.raises(WorkerFailed, match="as soon as it was ready"):
        await supervisor.start()
    assert WorkerState.READY not in states.states
    await supervisor.aclose()


@pytest.mark.asyncio
async def test_nothing_is_open_before_the_start() -> None:
    """Asking too early is an error with a name."""
    supervisor = Supervisor(CONFIG, (TINY_SPEC,))
    with pytest.raises(Unavailable, match="starting"):
        open_session(supervisor, Recorder())
    with pytest.raises(Unavailable, match="not started"):
        supervisor.statistics()
    await supervisor.aclose()
