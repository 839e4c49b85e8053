"""What replaces a worker, and how soon; and when one counts as hung."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest

from framehaul_pipeline.errors import Unavailable
from framehaul_pipeline.link.channel import ServerChannel
from framehaul_pipeline.link.messages import (
    Alive,
    Begin,
    OpenSession,
    Probe,
    RunningChunk,
    SlotReturned,
    ToServer,
    ToWorker,
)
from framehaul_pipeline.supervision import standby
from framehaul_pipeline.supervision.process import WorkerProcess
from framehaul_pipeline.supervision.supervisor import Supervisor, WorkerState
from tests.support.supervised import (
    CONFIG,
    FRAME_BYTES,
    Recorder,
    StateLog,
    decode,
    imported,
    latents,
    lose_patience,
    open_session,
    push,
    start_decoding,
    supervised,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")
RESTARTED = (WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)


async def recovery_s(supervisor: Supervisor, states: StateLog) -> float:
    """From a SIGKILL to the next frames."""
    killed_s = time.monotonic()
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    await states.reached(*RESTARTED)
    await decode(supervisor, 1)
    return time.monotonic() - killed_s


async def test_the_standby_becomes_the_worker_and_another_one_stands_by(
    supervisor: Supervisor, states: StateLog, recovered: Callable[[str, float], None]
) -> None:
    """There is nothing to import: its process is the one that stood by; without one nobody stands by."""
    others = psutil.Process().children()
    async with supervised(CONFIG) as (alone, states_alone):
        assert alone.standby_pid is None
        assert [each.pid for each in psutil.Process().children() if each not in others] == [alone.worker_pid]
        recovered("worker killed -> next frames (no standby)", await recovery_s(alone, states_alone))
    first = await imported(supervisor)
    recovered("worker killed -> next frames (standby)", await recovery_s(supervisor, states))
    assert supervisor.worker_pid == first
    assert supervisor.standby_pid not in (None, first)


async def test_a_worker_begins_once_the_sessions_of_the_one_before_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one at once; a session that is opened before it begins is decoded, and one that is opened after."""
    sent: list[type[ToWorker]] = []
    send = ServerChannel.send

    def note(channel: ServerChannel, message: ToWorker) -> None:
        if isinstance(message, Begin | OpenSession):
            sent.append(type(message))
        send(channel, message)

    monkeypatch.setattr(ServerChannel, "send", note)
    async with supervised(CONFIG) as (supervisor, states):
        events = Recorder()

        def open_when_ready(state: WorkerState) -> None:
            if state is WorkerState.READY:
                start_decoding(supervisor, events, 1)
            states(state)

        supervisor._on_state = open_when_ready
        os.kill(supervisor.worker_pid, signal.SIGKILL)
        await states.reached(*RESTARTED)
        await events.ended()
        await decode(supervisor, 1)
    assert sent == [Begin, OpenSession, Begin, OpenSession]


async def test_a_standby_that_dies_is_replaced_until_its_budget_is_spent() -> None:
    """And the worker is undisturbed."""
    async with supervised(replace(CONFIG, standby=True, max_restarts=1)) as (supervisor, states):
        worker, first = supervisor.worker_pid, supervisor.standby_pid
        assert first is not None
        await killed(supervisor, first)
        second = supervisor.standby_pid
        assert second not in (None, first)
        assert second is not None
        await killed(supervisor, second)
        assert supervisor.standby_pid is None
        assert (supervisor.worker_pid, states.states) == (worker, [WorkerState.READY])
        await decode(supervisor, 1)


async def killed(supervisor: Supervisor, pid: int) -> None:
    """Kill the standby and wait until the supervisor has noticed."""
    noticed = asyncio.Event()
    process = supervisor._standby._process
    assert process is not None
    on_exit = process.on_exit

    def exited(code: int) -> None:
        on_exit(code)
        noticed.set()

    process.on_exit = exited
    os.kill(pid, signal.SIGKILL)
    await noticed.wait()


async def test_a_standby_that_died_unnoticed_costs_one_more_attempt(
    supervisor: Supervisor, states: StateLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken in the moment of its death: its successor is started afresh, and counted."""
    standby_pid = supervisor.standby_pid
    assert standby_pid is not None
    take = supervisor._standby.take

    async def take_and_kill() -> WorkerProcess | None:
        process = await take()
        if process is not None and process.pid == standby_pid:
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - nobody may notice yet
        return process

    epoch, num_deaths = supervisor.epoch, supervisor._budget.num_deaths
    monkeypatch.setattr(supervisor._standby, "take", take_and_kill)
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    await states.reached(*RESTARTED)
    assert supervisor.epoch == epoch + 2
    assert supervisor._budget.num_deaths == num_deaths + 2
    await decode(supervisor, 1)


async def test_a_standby_that_hangs_is_no_worker(
    supervisor: Supervisor, states: StateLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is stopped once it stands by: it is killed, the log says so, and a worker starts from nothing."""
    hangs = await imported(supervisor)
    monkeypatch.setattr(standby, "_ANSWER_S", 0.5)
    os.kill(hangs, signal.SIGSTOP)
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    await states.reached(*RESTARTED)
    await decode(supervisor, 1)
    assert supervisor.worker_pid != hangs
    assert not psutil.pid_exists(hangs)
    assert f"standby gives no answer pid={hangs}: killed" in caplog.text


async def test_a_standby_ignores_signals_and_ends_with_its_server(supervisor: Supervisor) -> None:
    """Its server's end of the socket decides; here it closes it."""
    process = supervisor._standby._process
    assert process is not None
    await imported(supervisor)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(process.pid, number)
    gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    assert await supervisor._standby.take() is process
    process.on_exit = gone.set_result
    process.connection.close()
    assert await gone == 0
    supervisor._standby.start()


async def test_a_stopped_worker_is_killed_and_replaced(supervisor: Supervisor, states: StateLog) -> None:
    """SIGSTOP with a chunk to do: no end-of-file, no message; its session hears of it, and the next one works."""
    events = Recorder()
    session = open_session(supervisor, events)
    push(session, latents(3, seed=1))
    session.allow(1)
    await events.received(4 * FRAME_BYTES)
    os.kill(supervisor.worker_pid, signal.SIGSTOP)
    session.allow(3)
    lose_patience(supervisor)
    assert isinstance(await events.failed(), Unavailable)
    await states.reached(*RESTARTED)
    await decode(supervisor, 1)


async def test_a_device_that_hangs_is_noticed_by_its_chunk(
    supervisor: Supervisor, states: StateLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker still answers: it says that it has been at one chunk for too long. The log says which."""
    events = Recorder()
    open_session(supervisor, events)
    epoch = supervisor._epoch
    assert epoch is not None
    dispatch = epoch._dispatch

    def dispatch_busy(message: ToServer) -> None:
        if isinstance(message, Alive):
            message = Alive(oldest=RunningChunk(session=1, num_latents=4, busy_ns=10**11))
        dispatch(message)

    monkeypatch.setattr(epoch, "_dispatch", dispatch_busy)
    lose_patience(supervisor)
    assert isinstance(await events.failed(), Unavailable)
    assert "hangs in a chunk of 4 latents of session 1: 100.0 s" in caplog.text
    await states.reached(*RESTARTED)
    await decode(supervisor, 1)


async def test_a_worker_that_waits_is_left_alone(
    supervisor: Supervisor, states: StateLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For latents, for a window that opens, for slots that the server keeps: it says that it is at no chunk then."""
    kept: list[SlotReturned] = []
    send = ServerChannel.send

    def keep_slots(channel: ServerChannel, message: ToWorker) -> None:
        if isinstance(message, SlotReturned):
            kept.append(message)
        else:
            send(channel, message)

    epoch = supervisor._epoch
    assert epoch is not None
    answers: asyncio.Queue[Alive] = asyncio.Queue()
    dispatch = epoch._dispatch

    def dispatch_watched(message: ToServer) -> None:
        dispatch(message)
        if isinstance(message, Alive):
            answers.put_nowait(message)

    with monkeypatch.context() as patch:
        patch.setattr(epoch, "_dispatch", dispatch_watched)
        patch.setattr(ServerChannel, "send", keep_slots)
        events = Recorder()
        session = open_session(supervisor, events)
        waiting = open_session(supervisor, Recorder())
        push(waiting, latents(1, seed=2))
        push(session, latents(8, seed=1))
        session.allow(8)
        while len(kept) < 3:
            events.changed.clear()
            await events.changed.wait()
        epoch._channel.send(Probe())
        while (await answers.get()).oldest is not None:
            epoch._channel.send(Probe())
        assert states.states == [WorkerState.READY]
        assert len(kept) == 3
    for message in kept:
        epoch._channel.send(message)
    session.end_latents()
    await events.ended()
    waiting.drop()
