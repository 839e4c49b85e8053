"""What replaces a worker, and how soon; and when one counts as hung."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import psutil
import pytest

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.errors import Unavailable
from framehaul_pipeline.link.channel import ServerChannel
from framehaul_pipeline.link.messages import Alive, Begin, OpenSession, RunningChunk, ToServer, ToWorker
from framehaul_pipeline.models.model import TINY_SPEC
from framehaul_pipeline.supervision.process import WorkerProcess
from framehaul_pipeline.supervision.supervisor import Supervisor, WorkerState
from tests.integration.pipeline.test_supervisor import CONFIG, Recorder, StateLog, latents, open_session, push

FRAMES_BYTES = 4 * 32 * 48 * 3


@asynccontextmanager
async def supervised(config: WorkerConfig) -> AsyncIterator[tuple[Supervisor, StateLog]]:
    states = StateLog()
    supervisor = Supervisor(config, (TINY_SPEC,), on_state=states)
    try:
        await supervisor.start()
        yield supervisor, states
    finally:
        await supervisor.aclose()


async def decode_one(supervisor: Supervisor) -> None:
    events = Recorder()
    session = open_session(supervisor, events)
    push(session, latents(1, seed=1))
    session.allow(1)
    session.end()
    await events.ended()


async def waits(pid: int) -> None:
    """Wait until a process has imported everything: nobody tells, but it uses no processor any more."""
    process = psutil.Process(pid)
    before, now = -1.0, 0.0
    while now != before or now < 0.5:
        await asyncio.sleep(0.3)
        before, now = now, sum(process.cpu_times()[:2])


async def recovery_s(config: WorkerConfig, *, warm: bool) -> float:
    """From a SIGKILL to the next frames."""
    async with supervised(config) as (supervisor, states):
        if warm:
            assert supervisor.standby_pid is not None
            await waits(supervisor.standby_pid)
        killed_s = time.monotonic()
        os.kill(supervisor.worker_pid, signal.SIGKILL)
        await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)
        await decode_one(supervisor)
        return time.monotonic() - killed_s


@pytest.mark.asyncio
async def test_the_standby_becomes_the_worker_and_another_one_stands_by() -> None:
    async with supervised(CONFIG) as (supervisor, states):
        first = supervisor.standby_pid
        os.kill(supervisor.worker_pid, signal.SIGKILL)
        await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)
        assert supervisor.worker_pid == first
        assert supervisor.standby_pid not in (None, first)
        await decode_one(supervisor)


@pytest.mark.asyncio
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
                session = open_session(supervisor, events)
                push(session, latents(1, seed=1))
                session.allow(1)
                session.end()
            states(state)

        supervisor._on_state = open_when_ready
        os.kill(supervisor.worker_pid, signal.SIGKILL)
        await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)
        await events.ended()
        await decode_one(supervisor)
    assert sent == [Begin, OpenSession, Begin, OpenSession]


@pytest.mark.asyncio
async def test_a_standby_makes_a_restart_quicker(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to import: less than half of the time, even on a busy machine."""
    without_s = await recovery_s(replace(CONFIG, standby=False), warm=False)
    with_s = await recovery_s(CONFIG, warm=True)
    with capsys.disabled():
        print(f"\nworker killed -> next frames: {with_s:.2f} s with a standby, {without_s:.2f} s without")  # noqa: T201
    assert with_s < without_s / 2


@pytest.mark.asyncio
async def test_without_a_standby_there_is_one_process() -> None:
    async with supervised(replace(CONFIG, standby=False)) as (supervisor, _):
        assert supervisor.standby_pid is None
        assert [child.pid for child in psutil.Process().children()] == [supervisor.worker_pid]


@pytest.mark.asyncio
async def test_a_standby_that_dies_is_replaced_until_its_budget_is_spent() -> None:
    """And the worker is undisturbed."""
    async with supervised(replace(CONFIG, max_restarts=1)) as (supervisor, states):
        worker, first = supervisor.worker_pid, supervisor.standby_pid
        assert first is not None
        await killed(supervisor, first)
        second = supervisor.standby_pid
        assert second not in (None, first)
        assert second is not None
        await killed(supervisor, second)
        assert supervisor.standby_pid is None
        assert (supervisor.worker_pid, states.states) == (worker, [WorkerState.READY])
        await decode_one(supervisor)


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
    await asyncio.wait_for(noticed.wait(), 20)


@pytest.mark.asyncio
async def test_a_standby_that_died_unnoticed_costs_one_more_attempt() -> None:
    """It was taken in the moment of its death: its successor is started afresh, and counted."""
    async with supervised(CONFIG) as (supervisor, states):
        standby_pid = supervisor.standby_pid
        assert standby_pid is not None
        take = supervisor._standby.take

        def take_and_kill() -> WorkerProcess | None:
            process = take()
            if process is not None and process.pid == standby_pid:
                process.kill()
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            return process

        supervisor._standby.take = take_and_kill  # type: ignore[method-assign]
        os.kill(supervisor.worker_pid, signal.SIGKILL)
        await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)
        assert supervisor.epoch == 3
        assert supervisor._budget.num_deaths == 2
        await decode_one(supervisor)


@pytest.mark.asyncio
async def test_a_standby_ignores_signals_and_ends_with_its_server() -> None:
    """Its server's end of the socket decides; here it closes it."""
    async with supervised(CONFIG) as (supervisor, _):
        process = supervisor._standby._process
        assert process is not None
        await waits(process.pid)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process.pid, number)
        gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        assert supervisor._standby.take() is process
        process.on_exit = gone.set_result
        process.connection.close()
        assert await asyncio.wait_for(gone, 20) == 0


@pytest.mark.asyncio
async def test_a_stopped_worker_is_killed_and_replaced() -> None:
    """SIGSTOP with a chunk to do: no end-of-file, no message; its session hears of it, and the next one works."""
    async with supervised(replace(CONFIG, chunk_timeout_s=1.0)) as (supervisor, states):
        events = Recorder()
        session = open_session(supervisor, events)
        push(session, latents(3, seed=1))
        session.allow(1)
        await events.received(FRAMES_BYTES)
        os.kill(supervisor.worker_pid, signal.SIGSTOP)
        session.allow(3)
        assert isinstance(await asyncio.wait_for(events.failed(), 20), Unavailable)
        await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)
        await decode_one(supervisor)


@pytest.mark.asyncio
async def test_a_device_that_hangs_is_noticed_by_its_chunk(caplog: pytest.LogCaptureFixture) -> None:
    """The worker still answers: it says that it has been at one chunk for too long. The log says which."""
    async with supervised(replace(CONFIG, chunk_timeout_s=0.4)) as (supervisor, states):
        events = Recorder()
        open_session(supervisor, events)
        epoch = supervisor._epoch
        assert epoch is not None
        dispatch = epoch._dispatch

        def dispatch_busy(message: ToServer) -> None:
            if isinstance(message, Alive):
                message = Alive(oldest=RunningChunk(session=1, num_latents=4, busy_ns=10**11))
            dispatch(message)

        epoch._dispatch = dispatch_busy  # type: ignore[method-assign]
        assert isinstance(await asyncio.wait_for(events.failed(), 20), Unavailable)
        assert "hangs in a chunk of 4 latents of session 1: 100.0 s" in caplog.text
        await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)
        await decode_one(supervisor)


@pytest.mark.asyncio
async def test_a_worker_that_waits_is_left_alone() -> None:
    """For latents, for a window that opens, for slots that the server keeps: all of it longer than the timeout."""
    async with supervised(replace(CONFIG, chunk_timeout_s=0.4)) as (supervisor, states):
        epoch = supervisor._epoch
        assert epoch is not None
        answers: asyncio.Queue[Alive] = asyncio.Queue()
        dispatch = epoch._dispatch

        def dispatch_watched(message: ToServer) -> None:
            dispatch(message)
            if isinstance(message, Alive):
                answers.put_nowait(message)

        epoch._dispatch = dispatch_watched  # type: ignore[method-assign]
        holds = Recorder(hold=True)
        session = open_session(supervisor, holds)
        waiting = open_session(supervisor, Recorder())
        push(waiting, latents(1, seed=2))
        push(session, latents(8, seed=1))
        session.allow(8)
        while supervisor.statistics().num_leased < 3:
            holds.changed.clear()
            await holds.changed.wait()
        for _ in range(12):
            await asyncio.wait_for(answers.get(), 20)
        assert states.states == [WorkerState.READY]
        for lease in holds.leases:
            lease.release()
        holds.hold = False
        session.end()
        await asyncio.wait_for(holds.ended(), 20)
