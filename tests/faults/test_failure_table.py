"""The failure table of docs/design.md: a test for each of its rows, named by the row, with the measured recovery time.

`make faults` prints the times. Most rows have sharper tests elsewhere, which the table names; here each is broken once
against a real server, and the next good session works.
"""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient
from framehaul_client.transport import connection
from framehaul_pipeline.supervision import process
from framehaul_pipeline.supervision.supervisor import WorkerState
from tests.faults import worker_loss
from tests.faults.faulty_worker import Harm
from tests.faults.test_chunk_life import do_harm
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.client_command import COMMAND
from tests.support.clips import CHANNELS, EXPLICIT, SIZE, latents, opening
from tests.support.proxy import FaultProxy
from tests.support.running_app import RunningApp, running_app
from tests.support.server_process import ServerProcess, environment, running_server
from tests.support.waiting import eventually

DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
CLIP = latents(40)
Recovered = Callable[[str, float], None]


def clock() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def streaming(target: str) -> AsyncIterator[AsyncCall]:
    """An EXPLICIT session that has its first frames and waits for an acknowledgement."""
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        stream = AsyncCall(channel)
        await stream.send(CLIP, open=EXPLICIT)
        await stream.read_frames(8)
        yield stream


async def client_leaves(_: Path) -> float:
    async with running_app() as app, streaming(app.target) as stream:
        left_s = clock()
        stream.call.cancel()
        await eventually(lambda: not app.num_sessions, app.held)
        took_s = clock() - left_s
        await app.serves()
        return took_s


async def client_freezes(_: Path) -> float:
    """Its link is half open, which looks the same from here."""
    async with (
        running_app(keepalive_s=1.0) as app,
        FaultProxy(app.target) as proxy,
        streaming(proxy.target),
    ):
        frozen_s = clock()
        proxy.freeze()
        await eventually(lambda: not app.num_sessions, app.held)
        took_s = clock() - frozen_s
        await app.serves()
        return took_s


async def client_stalls(_: Path) -> float:
    """It holds no place from then on, although it hears of its end only when it reads on."""
    still = (*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 << 10))
    async with (
        running_app(stall_timeout_s=1.0, max_sessions=1) as app,
        grpc.aio.insecure_channel(app.target, options=still) as channel,
    ):
        stream = AsyncCall(channel)
        await stream.send(CLIP, open=opening())
        await stream.read_frames(8)
        stalled_s = clock()
        await eventually(lambda: not app.num_sessions, app.held)
        took_s = clock() - stalled_s
        await app.serves()
        assert app.held()["unread"] == 1
        assert (await stream.status())[0] is grpc.StatusCode.ABORTED
        await eventually(lambda: "unread" not in app.held(), app.held)
        return took_s


async def worker_killed(_: Path) -> float:
    async with running_app(worker={"standby": True}) as app:
        await app.warm()
        return await lose_worker(app, signal.SIGKILL)


async def worker_hangs(_: Path) -> float:
    async with running_app(worker={"standby": True, "chunk_timeout_s": 1.0}) as app:
        await app.warm()
        return await lose_worker(app, signal.SIGSTOP)


async def lose_worker(app: RunningApp, number: signal.Signals) -> float:
    """From the signal to the same session's next frames."""
    epoch = app.supervisor.epoch
    async with streaming(app.target) as stream:
        lost_s = clock()
        app.worker.send_signal(number)
        await stream.send(ack=pb.Ack(next_frame=8, window_frames=8))
        await stream.read_frames(9)
        took_s = clock() - lost_s
        assert app.supervisor.epoch == epoch + 1
        assert await stream.finish() == 160
        return took_s


async def session_kills_workers(_: Path) -> float:
    """From its status to another session's first frames."""
    async with harmful_app() as app:
        code, *_rest = await do_harm(app, Harm.KILL_DECODING)
        assert code is grpc.StatusCode.ABORTED
        return await app.first_frames_s()


async def replay_differs(_: Path) -> float:
    """The reference client's: from the worker's death to the next frame that it hadn't."""
    async with running_app() as app:
        with worker_loss.replay_differs():
            return await disturb(app.target, app.worker.kill)


async def link_cut(_: Path) -> float:
    """The reference client's: from the cut to the next frame that it hadn't."""
    async with running_app() as app, FaultProxy(app.target) as proxy:
        return await disturb(proxy.target, proxy.cut)


async def disturb(target: str, fault: Callable[[], None]) -> float:
    """Have `fault` happen to the reference client in the middle of a clip; it needs a second call, and has all."""
    noise = np.random.default_rng(1).standard_normal((40, CHANNELS, SIZE, SIZE), np.float32).astype(np.float16)
    async with FrameClient(target) as client, client.session(noise, window_frames=8) as session:
        await anext(session)
        happened_s = clock()
        fault()
        for _frame in range(8):  # more than can have come before
            await anext(session)
        took_s = clock() - happened_s
        assert len([frame async for frame in session]) == 151
        assert session.statistics.num_reconnects == 1
        return took_s


async def worker_dies_too_often(_: Path) -> float:
    async with running_app(worker={"max_restarts": 0}) as app, streaming(app.target) as stream:
        lost_s = clock()
        app.worker.kill()
        assert (await stream.status())[0] is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: app.supervisor.state is WorkerState.CLOSED, lambda: app.supervisor.state)
        return clock() - lost_s


async def standby_dies(_: Path) -> float:
    async with running_app(worker={"standby": True}) as app, streaming(app.target) as stream:
        first = app.supervisor.standby_pid
        assert first is not None
        killed_s = clock()
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: app.supervisor.standby_pid not in (None, first), lambda: "another standby")
        took_s = clock() - killed_s
        assert await stream.finish() == 160
        return took_s


@asynccontextmanager
async def harmful_app() -> AsyncIterator[RunningApp]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "ENTRY_MODULE", "tests.faults.faulty_worker")
        async with running_app() as app:
            yield app


async def decoder_raises(_: Path) -> float:
    async with harmful_app() as app:
        return await fail_session(app, Harm.RAISE, grpc.StatusCode.INTERNAL)


async def device_memory_full(_: Path) -> float:
    async with harmful_app() as app:
        return await fail_session(app, Harm.OUT_OF_MEMORY, grpc.StatusCode.RESOURCE_EXHAUSTED)


async def fail_session(app: RunningApp, harm: Harm, expected: grpc.StatusCode) -> float:
    """From the failed session's status to another session's first frames; the worker is the same."""
    epoch = app.supervisor.epoch
    code, _, _ = await do_harm(app, harm)
    assert code is expected
    took_s = await app.first_frames_s()
    assert app.supervisor.epoch == epoch
    return took_s


async def server_drains(_: Path) -> float:
    async with running_app() as app, streaming(app.target) as stream:
        stopped_s = clock()
        app.stop.set()
        while stream.drain is None:
            await stream.read()
        assert await stream.finish() == 160
        await eventually(lambda: app.supervisor.state is WorkerState.CLOSED, lambda: app.supervisor.state)
        return clock() - stopped_s


@contextmanager
def server_process(folder: Path, *options: str) -> Iterator[ServerProcess]:
    with running_server(folder / "log", *options) as server:
        yield server


async def server_killed(folder: Path) -> float:
    """Worker and standby go with it."""
    with server_process(folder, "--standby") as server:
        server.standby()
        children = psutil.Process(server.process.pid).children()
        async with streaming(server.target) as stream:
            killed_s = clock()
            server.signal(signal.SIGKILL)
            assert (await stream.status())[0] is grpc.StatusCode.UNAVAILABLE
            took_s = clock() - killed_s
        await eventually(lambda: not any(map(runs, children)), lambda: children)
        return took_s


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def server_freezes(folder: Path) -> float:
    """Noticed by the client's own ping: its settings with shorter times."""
    with server_process(folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "_KEEPALIVE_MS", 1000)
        patch.setattr(connection, "_PING_TIMEOUT_MS", 500)
        async with grpc.aio.insecure_channel(server.target, options=connection.channel_options()) as channel:
            stream = AsyncCall(channel)
            await stream.send(CLIP, open=EXPLICIT)
            await stream.read_frames(8)
            frozen_s = clock()
            server.signal(signal.SIGSTOP)
            try:
                assert (await asyncio.wait_for(stream.status(), 20))[0] is grpc.StatusCode.UNAVAILABLE
                took_s = clock() - frozen_s
            finally:
                server.signal(signal.SIGCONT)
        assert took_s < 5
        await asyncio.to_thread(server.expect_idle)
        return took_s


async def bad_latents(_: Path) -> float:
    async with running_app() as app, streaming(app.target) as stream:
        sent_s = clock()
        await stream.send(b"\xff" * 2048)
        code, details = await stream.status()
        assert (code, details.split(":")[0]) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "latents=NaN or infinity at element 0 of latent 40",
        )
        took_s = clock() - sent_s
        await app.serves()
        return took_s


async def too_much_work(_: Path) -> float:
    """From the end of the session that held the place to the opening of the one that waited for it."""
    async with running_app(max_sessions=1, max_queued=1) as app, streaming(app.target) as holder:
        async with grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as channel:
            queued = AsyncCall(channel)
            await queued.send(latents(2), open=opening(), end_of_latents=True)
            assert await queued.read()
            assert queued.positions == [1]
            refused = AsyncCall(channel)  # only now: it counts as a call from here on
            await refused.send(open=opening())
            assert (await refused.status())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
            trailers = dict(await refused.call.trailing_metadata())
            assert trailers["grpc-retry-pushback-ms"] == "1000"
            left_s = clock()
            holder.call.cancel()
            assert await queued.read()
            took_s = clock() - left_s
            assert queued.opened is not None
            assert await queued.read_to_end() == 8
        return took_s


async def readers_stall(_: Path) -> float:
    """More than there are slots; the time is a reading client's whole session."""
    async with running_app(worker={"num_slots": 2}) as app:
        target = app.target
        async with streaming(target), streaming(target), streaming(target):
            return await app.first_frames_s()


def clip_file(folder: Path, num_latents: int = 60) -> Path:
    noise = np.random.default_rng(1).standard_normal((num_latents, CHANNELS, SIZE, SIZE), np.float32)
    save_file({"latents": noise.astype(np.float16)}, folder / "clip.safetensors")
    return folder / "clip.safetensors"


async def client_fails(folder: Path, command: tuple[str, ...], out: Path, **limits: int) -> float:
    """Run the client command until it gives up; the server has the place back, the partial file is kept."""
    async with running_app() as app:
        client = await asyncio.create_subprocess_exec(
            *command, "stream", str(clip_file(folder)), "--out", str(out), "--target", app.target, "--crf", "0",
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(),
            preexec_fn=(lambda: limit_files(limits["largest_file"])) if limits else None,
        )  # fmt: skip
        _, err = await asyncio.wait_for(client.communicate(), 60)
        ended_s = clock()
        assert client.returncode == 6, err
        assert b"Traceback" not in err
        (kept,) = [name for name in os.listdir(out.parent) if name.startswith(out.name)]
        assert kept.endswith(".partial")
        await eventually(lambda: not app.num_sessions, app.held)
        took_s = clock() - ended_s
        await app.serves()
        return took_s


def limit_files(num_bytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


async def disk_full_at_client(folder: Path) -> float:
    """A small file system where that may be mounted; elsewhere files that may not grow."""
    disk = folder / "disk"
    with small_disk(disk) as mounted:
        limits = {} if mounted else {"largest_file": 64 << 10}
        return await client_fails(folder, COMMAND, disk / "v.mkv", **limits)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount one at `folder`; False where that isn't allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


FAILING_ENCODER = """
    import sys
    from framehaul_client.command.cli import main
    from framehaul_client.sinks.video import VideoSink

    make_frame = VideoSink._frame

    def frame_that_goes_back(sink, pixels):
        frame = make_frame(sink, pixels)
        if sink._num_frames > 100:
            frame.pts = 0  # no encoder or container takes that
        return frame

    VideoSink._frame = frame_that_goes_back
    sys.exit(main())
"""


async def encoder_fails_at_client(folder: Path) -> float:
    program = (sys.executable, "-c", textwrap.dedent(FAILING_ENCODER))
    return await client_fails(folder, program, folder / "v.mkv")


ROWS: dict[str, Callable[[Path], Awaitable[float]]] = {
    row.__name__.replace("_", "-"): row
    for row in (
        client_leaves,
        client_freezes,
        link_cut,
        client_stalls,
        worker_killed,
        worker_hangs,
        session_kills_workers,
        replay_differs,
        worker_dies_too_often,
        standby_dies,
        decoder_raises,
        device_memory_full,
        server_drains,
        server_killed,
        server_freezes,
        bad_latents,
        too_much_work,
        readers_stall,
        disk_full_at_client,
        encoder_fails_at_client,
    )
}


@pytest.mark.asyncio
@pytest.mark.parametrize("row", ROWS)
async def test_row(row: str, tmp_path: Path, recovered: Recovered) -> None:
    """What the table says happens; and it is over in bounded time."""
    took_s = await ROWS[row](tmp_path)
    recovered(row, took_s)
    assert took_s < 30


def test_the_table_has_these_rows() -> None:
    """And names tests that exist."""
    rows = re.findall(r"^\| `([a-z-]+)` \|.*\| (.*) \|$", DESIGN.read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == set(ROWS)
    for name, tests in rows:
        for path in re.findall(r"`(tests/[^`]+)`", tests):
            assert (DESIGN.parents[1] / path).exists(), f"{name}: {path}"
