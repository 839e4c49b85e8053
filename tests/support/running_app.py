"""A server with a real worker in the test's own process: its sessions, slots, tasks and descriptors can be seen."""

import asyncio
import gc
import logging
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import psutil

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.supervision.config import WorkerConfig
from framehaul_pipeline.supervision.supervisor import Supervisor, WorkerSession, WorkerState
from framehaul_server.app import App
from framehaul_server.config import Address, ServerConfig
from framehaul_server.core.journal import Journal
from framehaul_server.session.decoding import Decoding
from framehaul_server.session.frames_out import FramesOut
from framehaul_server.session.latents_in import LatentsIn
from framehaul_server.session.production import Production
from framehaul_server.session.session import Session
from tests.support.server_process import latents, opening

EXPLICIT = opening(mode=pb.MODE_EXPLICIT, window_frames=8)
ACCEPTING = "AioServer._request_call"
"""gRPC's own task that waits for the next call: a new one for each."""
OF_ONE_SESSION = {Session, LatentsIn, Production, Journal, Decoding, WorkerSession, FramesOut}
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))


async def eventually(condition: Callable[[], bool], what: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for a state that sends no event to us."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert condition(), f"not within {timeout_s} s: {what()}"


class Stream:
    """A hand-driven `Stream` call; frames are counted, and kept where `keep` is true."""

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float | None = None, *, keep: bool = False) -> None:
        method: Any = channel.stream_stream(f"/{wire.SERVICE}/Stream")
        self.call = method(timeout=timeout_s)
        self.num_frames = 0
        self.frames = bytearray() if keep else None
        self.positions: list[int] = []
        """In the server's queue, as they were told."""
        self.opened: pb.Opened | None = None
        self.drain: pb.Drain | None = None
        self.done: pb.Done | None = None

    async def send(self, payload: bytes = b"", **fields: object) -> None:
        await self.call.write(wire.join(pb.StreamRequest(**fields), (payload,)))  # type: ignore[arg-type]

    async def read(self) -> bool:
        """Take a response; False after the last. Raises the call's error."""
        raw = await self.call.read()
        if raw is grpc.aio.EOF:
            return False
        response = wire.split_response(raw)
        header = response.header
        if header.HasField("queued"):
            assert self.opened is None
            self.positions.append(header.queued.position)
        if header.HasField("opened"):
            self.opened = header.opened
        if header.HasField("drain"):
            self.drain = header.drain
        if header.HasField("done"):
            self.done = header.done
            await self.call.done_writing()
        if header.HasField("frames"):
            assert header.frames.first_frame == self.num_frames
            self.num_frames += header.frames.num_frames
            if self.frames is not None:
                self.frames += response.payload
        return True

    async def read_frames(self, count: int) -> None:
        while self.num_frames < count:
            assert await self.read()

    async def read_to_end(self) -> int:
        """Frames of a session that ends well."""
        while await self.read():
            pass
        code = await self.call.code()
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(code, None, None, details=await self.call.details())
        assert self.done is not None
        assert self.done.num_frames == self.num_frames
        return self.num_frames

    async def finish(self) -> int:
        """End the input of an EXPLICIT session and acknowledge all frames that come; gives their number."""
        await self.send(end_of_latents=True)
        while self.done is None:
            await self.send(ack=pb.Ack(next_frame=self.num_frames, window_frames=100))
            assert await self.read()
        return await self.read_to_end()

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """How the call ended, once everything that came before was read."""
        with suppress(grpc.aio.AioRpcError):
            while await self.read():
                pass
        return await self.call.code(), await self.call.details()


class RunningApp:
    """What tests see of the server."""

    def __init__(self, app: App, target: str) -> None:
        self.app = app
        self.target = target
        self.stop = asyncio.Event()
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
            "leased": rings.num_leased,
            "inlet": rings.num_inlet_slots - rings.num_inlet_free,
            "tasks": tasks,
            "descriptors": sorted((descriptors() - self._descriptors).elements()),
        }
        return {name: value for name, value in found.items() if value}

    async def expect_idle(self, timeout_s: float = 20.0) -> float:
        """Every session, slot, task and descriptor comes back; gives the seconds that it took.

        Nor is anything left that sessions are made of.
        """
        clock = asyncio.get_running_loop().time
        start_s = clock()
        gc.collect()  # a client's call keeps its connection for as long as the object lives
        await eventually(lambda: not self.held(), self.held, timeout_s)
        took_s = clock() - start_s
        await eventually(lambda: not session_objects() - self._objects, session_objects)
        return took_s

    async def ready(self) -> None:
        """Wait for a worker that can take sessions."""
        await eventually(lambda: self.supervisor.state is WorkerState.READY, lambda: self.supervisor.state)

    async def warm(self) -> None:
        """Wait until the standby has imported everything: nobody tells, but it uses no processor any more."""
        await eventually(lambda: self.supervisor.standby_pid is not None, lambda: "a standby")
        assert self.supervisor.standby_pid is not None
        process = psutil.Process(self.supervisor.standby_pid)
        before, now = -1.0, 0.0
        while now != before or now < 0.5:
            await asyncio.sleep(0.3)
            before, now = now, sum(process.cpu_times()[:2])

    async def serves(self) -> None:
        """A good session works."""
        async with grpc.aio.insecure_channel(self.target, options=CHANNEL_OPTIONS) as channel:
            stream = Stream(channel)
            await stream.send(latents(2), open=opening(), end_of_latents=True)
            assert await asyncio.wait_for(stream.read_to_end(), 20) == 8

    async def first_frames_s(self) -> float:
        """Seconds until a session, tried again and again, has its first frames: as a client sees a recovery."""
        clock = asyncio.get_running_loop().time
        start_s = clock()
        async with grpc.aio.insecure_channel(self.target, options=CHANNEL_OPTIONS) as channel:
            while clock() < start_s + 30:
                stream = Stream(channel)
                try:
                    await stream.send(latents(1), open=opening(), end_of_latents=True)
                    await stream.read_to_end()
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


def without_traceback(record: logging.LogRecord) -> bool:
    """Nothing but text for pytest, which keeps what was logged: a traceback holds all that its functions knew."""
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
async def running_app(*, worker: dict[str, Any] | None = None, **changes: Any) -> AsyncIterator[RunningApp]:
    """Run a server, on the CPU unless `worker` says otherwise; stop it at the end, however the test left it."""
    ready: asyncio.Queue[str] = asyncio.Queue()
    settings = {"device": "cpu", "max_pixels": 512 * 512, "standby": False, **(worker or {})}
    config = ServerConfig(
        listen=Address(host="127.0.0.1", port=0),
        worker=WorkerConfig(**settings),
        session_window_bytes=1 << 20,
        **changes,
    )
    app = App(config, on_ready=ready.put_nowait)
    stop = asyncio.Event()
    boundary = logging.getLogger("framehaul_server.boundary")
    boundary.addFilter(without_traceback)
    running = asyncio.create_task(app.run(stop))
    line = asyncio.create_task(ready.get())
    try:
        await asyncio.wait({running, line}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        found = RunningApp(app, line.result().partition(" on ")[2].split(",")[0])
        found.stop = stop
        await found.serves()  # what is made once, at the first call, is not a leak
        found.remember()
        yield found
    finally:
        boundary.removeFilter(without_traceback)
        line.cancel()
        if not stop.is_set():
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)
