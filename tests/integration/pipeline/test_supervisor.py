"""The supervisor with a real worker process on the CPU: frames, deaths and slots."""

import asyncio
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from framehaul_pipeline.errors import InvalidInput, Overloaded, Unavailable
from framehaul_pipeline.link.messages import Kernels, KernelsBegun, Ready, ToServer
from framehaul_pipeline.supervision.epoch import Epoch, WorkerSession
from framehaul_pipeline.supervision.supervisor import Supervisor, WorkerFailed, WorkerState
from tests.support.supervised import (
    CONFIG,
    FRAME_BYTES,
    IDLE,
    Latents,
    Recorder,
    StateLog,
    decode,
    latents,
    open_session,
    push,
    supervised,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def push_one(session: WorkerSession, events: Recorder, clip: Latents, index: int) -> None:
    """One latent at a time: chunks of one."""
    push(session, clip[index : index + 1])
    session.allow(index + 1)
    await events.received((index + 1) * 4 * FRAME_BYTES)


async def test_interleaved_sessions_get_what_each_gets_alone(supervisor: Supervisor) -> None:
    """Bit for bit, when chunks have the same boundaries; and every slot comes back."""
    clips = [latents(5, seed) for seed in (1, 2)]
    alone = []
    for clip in clips:
        events = Recorder()
        session = open_session(supervisor, events)
        for index in range(5):
            await push_one(session, events, clip, index)
        session.end_latents()
        await events.ended()
        assert events.num_frames == 20
        alone.append(events.frames)
    together = [Recorder(), Recorder()]
    sessions = [open_session(supervisor, events) for events in together]
    for index in range(5):
        for session, events, clip in zip(sessions, together, clips, strict=True):
            await push_one(session, events, clip, index)
    for session in sessions:
        session.end_latents()
    for events in together:
        await events.ended()
    assert [events.frames for events in together] == alone
    assert alone[0] != alone[1]
    await eventually(lambda: supervisor.statistics() == IDLE, supervisor.statistics)  # the worker tells


async def test_chunk_size_does_not_change_the_pictures(supervisor: Supervisor) -> None:
    """Within one level after rounding, whatever the chunks."""
    clip = latents(7, seed=3)
    events = Recorder()
    session = open_session(supervisor, events)
    for index in range(7):
        await push_one(session, events, clip, index)
    session.end_latents()
    await events.ended()
    pictures = [np.frombuffer(found, np.uint8).astype(int) for found in (events.frames, await decode(supervisor, 7, 3))]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


async def test_latents_outside_the_window_stay_with_the_server(supervisor: Supervisor) -> None:
    """No inlet slot is held for frames that the client hasn't room for; a drop gives everything back."""
    events = Recorder()
    session = open_session(supervisor, events)
    push(session, latents(4, seed=4))
    session.allow(1)
    await events.received(4 * FRAME_BYTES)
    assert events.num_fed == 1
    assert supervisor.statistics().num_inlet_free == 12
    await eventually(lambda: not supervisor.statistics().num_slots_held, supervisor.statistics)
    with pytest.raises(ValueError, match="released"):
        bytes(events.last_view)  # nobody can read a slot that went back
    session.drop()
    session.drop()
    push(session, latents(1, seed=4))
    session.allow(9)
    session.end_latents()
    await eventually(lambda: supervisor.statistics() == IDLE, supervisor.statistics)  # the worker tells


async def test_kernels_are_recorded_by_the_worker_once_at_a_time(supervisor: Supervisor) -> None:
    """A CPU has none: whoever asks for them is told. The way there and back is the same."""
    with pytest.raises(InvalidInput, match=r"kernels=true: must be false: cpu .* has no kernels"):
        await supervisor.record_kernels(1.0, lambda: None)
    epoch = supervisor._current()
    begun = asyncio.Event()
    recording = asyncio.ensure_future(epoch.record_kernels(0.05, begun.set))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="already"):
        await epoch.record_kernels(0.05, lambda: None)
    with pytest.raises(Unavailable, match=r"the worker can't record kernels: .*No activities"):
        await recording
    assert not begun.is_set()
    recording = asyncio.ensure_future(epoch.record_kernels(0.05, begun.set))
    await asyncio.sleep(0)
    told = [Kernels(names=("a",), rows=((0, 1, 2, 3),), last=last) for last in (False, True)]
    epoch._receive(KernelsBegun())
    for message in told:
        epoch._receive(message)
    assert await recording == told
    assert begun.is_set()


async def test_a_killed_worker_fails_its_sessions_and_is_replaced(supervisor: Supervisor, states: StateLog) -> None:
    """The next session works, on fresh rings."""
    epoch = supervisor.epoch
    events = Recorder()
    session = open_session(supervisor, events)
    push(session, latents(1, seed=5))
    session.allow(1)
    await events.received(4 * FRAME_BYTES)
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    assert isinstance(await events.failed(), Unavailable)
    with pytest.raises(Unavailable, match="restarting"):
        open_session(supervisor, Recorder())
    session.send_latent(memoryview(b""))
    session.drop()
    await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)
    assert supervisor.epoch == epoch + 1
    await decode(supervisor, 2)
    await eventually(lambda: supervisor.statistics() == IDLE, supervisor.statistics)  # the worker tells


async def test_a_worker_that_dies_too_often_is_given_up() -> None:
    """Past the restart budget, sessions hear that there is no worker."""
    async with supervised(replace(CONFIG, max_restarts=0)) as (supervisor, states):
        os.kill(supervisor.worker_pid, signal.SIGKILL)
        await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.FAILED)
        with pytest.raises(Unavailable, match="failed"):
            open_session(supervisor, Recorder())


async def test_a_worker_that_is_not_ready_in_time_is_killed() -> None:
    """Importing torch takes longer than this."""
    supervisor = Supervisor(replace(CONFIG, startup_timeout_s=0.05))
    with pytest.raises(WorkerFailed, match=r"not ready within"):
        await supervisor.start()
    await supervisor.aclose()


async def test_a_worker_that_ends_as_soon_as_it_is_ready_is_not_taken_for_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first message and its end may arrive together."""
    states = StateLog()
    supervisor = Supervisor(CONFIG, on_state=states)
    dispatch = Epoch._dispatch

    def dispatch_then_lose(epoch: Epoch, message: ToServer) -> None:
        dispatch(epoch, message)
        if isinstance(message, Ready):
            epoch.kill()
            epoch._lose()

    monkeypatch.setattr(Epoch, "_dispatch", dispatch_then_lose)
    with pytest.raises(WorkerFailed, match="as soon as it was ready"):
        await supervisor.start()
    assert WorkerState.READY not in states.states
    await supervisor.aclose()


async def test_nothing_is_open_before_the_start() -> None:
    """Asking too early is an error with a name."""
    supervisor = Supervisor(CONFIG)
    with pytest.raises(Unavailable, match="starting"):
        open_session(supervisor, Recorder())
    with pytest.raises(Unavailable, match="not started"):
        supervisor.statistics()
    await supervisor.aclose()
