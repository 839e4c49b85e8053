"""A server with a real worker in the test's own process: its sessions, slots, tasks and descriptors can be seen."""

import asyncio
import gc
import logging
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import psutil

from framehaul_client.transport import exchange
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.supervision.epoch import WorkerSession
from framehaul_pipeline.supervision.supervisor import Supervisor, WorkerState
from framehaul_server import cli
from framehaul_server.app import App
from framehaul_server.core.journal import Journal
from framehaul_server.rpc import boundary
from framehaul_server.session.decoding import Decoding
from framehaul_server.session.frames_out import FramesOut
from framehaul_server.session.latents_in import LatentsIn
from framehaul_server.session.session import Session
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.clips import latents, opening
from tests.support.server_process import COMMON_OPTIONS
from tests.support.supervised import imported
from tests.support.waiting import eventually

START_TIMEOUT_S = 60.0
ACCEPTING = "AioServer._request_call"
"""gRPC's own task that waits for the next call: a new one for each."""
OF_ONE_SESSION = {Session, LatentsIn, Decoding, Journal, WorkerSession, FramesOut}


class RunningApp:
    """What tests see of the server."""

    def __init__(self, app: App, target: str, running: "asyncio.Task[None]", stop: asyncio.Event) -> None:
        self.app = app
        self.target = target
        self.running = running
        self.stop = stop
        self._tasks: set[asyncio.Task[Any]] = set()
        self._descriptors: Counter[str] = Counter()
        self._objects: Counter[str] = Counter()
        """Those that earlier tests left in this process."""

    @property
    def supervisor(self) -> Supervisor:
        return self.app._supervisor

    @property
    def worker(self) -> psutil.Process:
        return psutil.Process(self.supervisor.worker_pid)

    @property
    def num_sessions(self) -> int:
        return self.app._admission.num_sessions

    @property
    def num_free_samples(self) -> int:
        """Slots for films' frames that nobody has."""
        samples = self.supervisor._current()._samples
        assert samples is not None, "it searches films"
        return samples.num_free

    def at_work(self) -> frozenset[int]:
        """The worker's sessions that its death would be blamed on."""
        return self.supervisor._current()._ring.noted()

    def remember(self) -> None:
        """What must be there again, and no more, once everybody has left."""
        self._tasks = set(asyncio.all_tasks())
        self._descriptors = descriptors()
        self._objects = session_objects()

    def held(self) -> dict[str, object]:
        """What is not as it was; empty when nothing is held."""
        rings = self.supervisor.statistics()
        tasks = [name for task in asyncio.all_tasks() - self._tasks if (name := task_name(task)) != ACCEPTING]
        found = {
            "places": self.num_sessions,
            "queued": self.app._admission.num_queued,
            "calls": not self.app._admission.idle.is_set(),
            "unread": self.app._unread_calls.num_calls,
            "sessions": rings.num_sessions,
            "slots": rings.num_slots_held,
            "inlet": rings.num_inlet_slots - rings.num_inlet_free,
            "tasks": tasks,
            "descriptors": sorted((descriptors() - self._descriptors).elements()),
        }
        return {name: value for name, value in found.items() if value}

    async def expect_idle(self, timeout_s: float = 60.0) -> float:
        """Every session, slot, task and descriptor comes back; gives the seconds that it took.

        Nor is anything left that sessions are made of.
        """
        clock = asyncio.get_running_loop().time
        start_s = clock()
        await eventually(self._is_idle, self.held, timeout_s)
        took_s = clock() - start_s
        await eventually(lambda: not session_objects() - self._objects, session_objects)
        return took_s

    def _is_idle(self) -> bool:
        gc.collect()  # a call keeps its connection for as long as the object lives
        return not self.held()

    async def ready(self) -> None:
        """Wait for a worker that can take sessions; a busy machine takes its time to start one."""
        supervisor = self.supervisor
        await eventually(lambda: supervisor.state is WorkerState.READY, lambda: supervisor.state, START_TIMEOUT_S)

    async def warm(self) -> None:
        """Wait until the standby has imported everything."""
        await imported(self.supervisor)

    async def serves(self) -> None:
        """A good session works."""
        async with grpc.aio.insecure_channel(self.target, options=CHANNEL_OPTIONS) as channel:
            call = AsyncCall(channel)
            await call.send(latents(2), open=opening(), end_of_latents=True)
            assert await asyncio.wait_for(call.read_to_end(), 60) == 8

    async def first_frames_s(self) -> float:
        """Seconds until a session, tried again and again, has its first frames: as a client sees a recovery."""
        clock = asyncio.get_running_loop().time
        start_s = clock()
        async with grpc.aio.insecure_channel(self.target, options=CHANNEL_OPTIONS) as channel:
            while clock() < start_s + 30:
                call = AsyncCall(channel)
                try:
                    await call.send(latents(1), open=opening(), end_of_latents=True)
                    await call.read_to_end()
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await asyncio.sleep(0.01)
                else:
                    return clock() - start_s
        raise AssertionError("no session within 30 s")


def task_name(task: asyncio.Task[Any]) -> str:
    """What a task runs; that of the test itself counts as accepting."""
    return ACCEPTING if task is asyncio.current_task() else str(getattr(task.get_coro(), "__qualname__", task))


def session_objects() -> Counter[str]:
    """The server's objects in this process that belong to one session each."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in OF_ONE_SESSION)


def as_text(record: logging.LogRecord) -> bool:
    """Nothing but text for pytest, which keeps what was logged: a traceback holds all that its functions knew."""
    record.msg, record.args = record.getMessage(), None
    if record.exc_info:
        record.exc_text, record.exc_info = logging.Formatter().formatException(record.exc_info), None
    return True


def descriptors() -> Counter[str]:
    """Open descriptors of this process: sockets by kind alone, rings without their epoch, others by what they are."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            name = os.readlink(f"/proc/self/fd/{number}").partition(":[")[0]
            found[re.sub(r"-\d+ \(deleted\)$", "", name)] += 1
    return found


@asynccontextmanager
async def running_app(*options: str, models: Sequence[Model] = ()) -> AsyncIterator[RunningApp]:
    """Run a server with `COMMON_OPTIONS` and these; stop it at the end, however the test left it.

    `models` are for what `--model` can't tell.
    """
    ready: asyncio.Queue[str] = asyncio.Queue()
    config = cli.parse([*COMMON_OPTIONS, "--session-window-mib", "1", *options], {})
    if models:
        config = replace(config, worker=replace(config.worker, models=tuple(models)))
    app = App(config, on_ready=ready.put_nowait)
    stop = asyncio.Event()
    logs = [logging.getLogger(module.__name__) for module in (boundary, exchange)]
    for log in logs:
        log.addFilter(as_text)
    running = asyncio.create_task(app.run(stop))
    line = asyncio.create_task(ready.get())
    try:
        await asyncio.wait({running, line}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        found = RunningApp(app, line.result().partition(" on ")[2].split(",")[0], running, stop)
        await found.serves()  # what is made once, at the first call, is not a leak
        found.remember()
        yield found
    finally:
        for log in logs:
            log.removeFilter(as_text)
        line.cancel()
        is_cancelled = not stop.is_set() and running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled() == is_cancelled
