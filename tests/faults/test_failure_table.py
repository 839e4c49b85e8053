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
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import psutil
import pytest
import pytest_asyncio
from safetensors.numpy import save_file

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient
from framehaul_client.transport import connection
from framehaul_pipeline.models.model import TINY
from framehaul_pipeline.supervision import standby
from framehaul_pipeline.supervision.supervisor import WorkerFailed, WorkerState
from tests.faults import worker_loss
from tests.faults.harm import Harm, harmful
from tests.faults.test_chunk_life import do_harm
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.client_command import COMMAND
from tests.support.clips import EXPLICIT, latents, make_clip, opening
from tests.support.proxy import FaultProxy
from tests.support.running_app import RunningApp, running_app
from tests.support.server_process import environment, has_ended, running_server
from tests.support.supervised import lose_patience
from tests.support.waiting import eventually, nap_clock

pytestmark = pytest.mark.asyncio(loop_scope="module")
DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
CLIP = latents(40)
MAX_SESSIONS = 4
Recovered = Callable[[str, float], None]
RowT = TypeVar("RowT", bound=Callable[..., Awaitable[float]])


def clock() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def streaming(target: str) -> AsyncIterator[AsyncCall]:
    """An EXPLICIT session that has its first frames and waits for an acknowledgement."""
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        call = AsyncCall(channel)
        await call.send(CLIP, open=EXPLICIT)
        await call.read_frames(8)
        yield call


async def client_leaves(app: RunningApp, _: Path) -> float:
    async with streaming(app.target) as call:
        left_s = clock()
        call.call.cancel()
        await eventually(lambda: not app.num_sessions, app.held)
        return clock() - left_s


async def client_freezes(_: Path) -> float:
    """Its link is half open, which looks the same from here."""
    async with running_app("--keepalive", "1") as app, FaultProxy(app.target) as proxy, streaming(proxy.target):
        frozen_s = clock()
        proxy.freeze()
        with nap_clock() as naps:
            await eventually(lambda: not app.num_sessions, app.held)
            assert naps() < 2.5
        return clock() - frozen_s


async def client_stalls(app: RunningApp, _: Path) -> float:
    """With frames that it doesn't read, and with those that it doesn't acknowledge."""
    return max(await stall(app, opening()), await stall(app, EXPLICIT))


async def stall(app: RunningApp, opening: pb.Open) -> float:
    """It holds no place from then on, although it hears of its end only when it reads on."""
    still = (*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 << 10))
    async with grpc.aio.insecure_channel(app.target, options=still) as channel:
        call = AsyncCall(channel)
        await call.send(CLIP, open=opening)
        assert await call.read()
        with nap_clock() as naps:
            await eventually(lambda: not app.num_sessions, app.held)
            took_s = naps()
        assert opening.mode == pb.MODE_EXPLICIT or app.held()["unread"] == 1
        code, details = await call.status()
        assert code is grpc.StatusCode.ABORTED
        assert "no frame was taken" in details
        return took_s


async def worker_killed(app: RunningApp, _: Path) -> float:
    return await lose_worker(app, signal.SIGKILL)


async def worker_hangs(app: RunningApp, _: Path) -> float:
    return await lose_worker(app, signal.SIGSTOP)


async def lose_worker(app: RunningApp, number: signal.Signals) -> float:
    """From the signal to the same session's next frames."""
    await app.warm()
    epoch = app.supervisor.epoch
    async with streaming(app.target) as call:
        lost_s = clock()
        app.worker.send_signal(number)
        if number is signal.SIGSTOP:
            lose_patience(app.supervisor)
        await call.send(ack=pb.Ack(next_frame=8, window_frames=8))
        await call.read_frames(9)
        took_s = clock() - lost_s
        assert app.supervisor.epoch == epoch + 1
        assert await call.finish() == 160
        return took_s


async def replay_differs(app: RunningApp, _: Path) -> float:
    """The reference client's: from the worker's death to the next frame that it hadn't."""
    with worker_loss.replay_differs():
        return await disturb(app.target, app.worker.kill)


async def link_cut(app: RunningApp, _: Path) -> float:
    """The reference client's: from the cut to the next frame that it hadn't."""
    async with FaultProxy(app.target) as proxy:
        return await disturb(proxy.target, proxy.cut)


async def disturb(target: str, fault: Callable[[], None]) -> float:
    """Have `fault` happen to the reference client in the middle of a clip; it needs a second call, and has all."""
    async with FrameClient(target) as client, client.session(make_clip(40), window_frames=8) as session:
        await anext(session)
        happened_s = clock()
        fault()
        for _frame in range(8):  # more than can have come before
            await anext(session)
        took_s = clock() - happened_s
        assert len([frame async for frame in session]) == 151
        assert session.statistics.num_reconnects == 1
        return took_s


async def standby_dies(app: RunningApp, _: Path) -> float:
    async with streaming(app.target) as call:
        first = app.supervisor.standby_pid
        assert first is not None
        killed_s = clock()
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: app.supervisor.standby_pid not in (None, first), lambda: "another standby")
        took_s = clock() - killed_s
        assert await call.finish() == 160
        return took_s


async def standby_hangs(app: RunningApp, _: Path) -> float:
    """With a shorter time to answer; where it still imports, with none left for that."""
    hanging = app.supervisor.standby_pid
    assert hanging is not None
    async with streaming(app.target) as call:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(standby, "_ANSWER_S", 0.5)
            patch.setattr(app.supervisor._standby, "_imported_by_s", 0.0)
            os.kill(hanging, signal.SIGSTOP)
            killed_s = clock()
            os.kill(app.supervisor.worker_pid, signal.SIGKILL)
            assert await call.finish() == 160
            took_s = clock() - killed_s
        assert app.supervisor.worker_pid != hanging
        assert not psutil.pid_exists(hanging)
        return took_s


async def bad_latents(app: RunningApp, _: Path) -> float:
    async with streaming(app.target) as call:
        sent_s = clock()
        await call.send(b"\xff" * 2048)
        code, details = await call.status()
        assert (code, details.split(":")[0]) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "latents=NaN or infinity at element 0 of latent 40",
        )
        return clock() - sent_s


async def too_much_work(app: RunningApp, _: Path) -> float:
    """From the end of a session that held a place to the opening of the one that waited for it."""
    async with AsyncExitStack() as stack:
        holder, *_others = [await stack.enter_async_context(streaming(app.target)) for _place in range(MAX_SESSIONS)]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS))
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
        assert queued.is_open
        assert await queued.read_to_end() == 8
        return took_s


async def readers_stall(app: RunningApp, _: Path) -> float:
    """More than there are slots; the time is a reading client's whole session."""
    async with streaming(app.target), streaming(app.target), streaming(app.target):
        return await app.first_frames_s()


async def client_fails(app: RunningApp, folder: Path, command: tuple[str, ...], out: Path, **limits: int) -> float:
    """Run the client command until it gives up; the server has the place back, the partial file is kept."""
    save_file({"latents": make_clip(60, seed=1)}, folder / "clip.safetensors")
    client = await asyncio.create_subprocess_exec(
        *command, "stream", str(folder / "clip.safetensors"), "--out", str(out), "--target", app.target, "--crf", "0",
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(),
        preexec_fn=(lambda: limit_files(limits["largest_file"])) if limits else None,
    )  # fmt: skip
    _, err = await client.communicate()
    ended_s = clock()
    assert client.returncode == 6, err
    assert b"Traceback" not in err
    (kept,) = [name for name in os.listdir(out.parent) if name.startswith(out.name)]
    assert kept.endswith(".partial")
    await eventually(lambda: not app.num_sessions, app.held)
    return clock() - ended_s


def limit_files(num_bytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


async def disk_full_at_client(app: RunningApp, folder: Path) -> float:
    """A small file system where that may be mounted; elsewhere files that may not grow."""
    disk = folder / "disk"
    with small_disk(disk) as mounted:
        limits = {} if mounted else {"largest_file": 64 << 10}
        return await client_fails(app, folder, COMMAND, disk / "v.mkv", **limits)


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


async def encoder_fails_at_client(app: RunningApp, folder: Path) -> float:
    program = (sys.executable, "-c", textwrap.dedent(FAILING_ENCODER))
    return await client_fails(app, folder, program, folder / "v.mkv")


async def session_kills_workers(app: RunningApp, _: Path) -> float:
    """From its status to another session's first frames."""
    code, details, _num_frames = await do_harm(app, Harm.KILL_DECODING)
    assert code is grpc.StatusCode.ABORTED
    assert "three worker processes died" in details
    return await app.first_frames_s()


async def decoder_raises(app: RunningApp, _: Path) -> float:
    """Nothing is told of the reason."""
    return await fail_session(app, Harm.RAISE, grpc.StatusCode.INTERNAL, "internal error")


async def device_memory_full(app: RunningApp, _: Path) -> float:
    return await fail_session(app, Harm.OUT_OF_MEMORY, grpc.StatusCode.RESOURCE_EXHAUSTED, "device memory")


async def fail_session(app: RunningApp, harm: Harm, expected: grpc.StatusCode, text: str) -> float:
    """From the failed session's status to another session's first frames; the worker is the same."""
    with worker_loss.noted_deaths() as deaths:
        code, details, num_frames = await do_harm(app, harm)
        assert (code, num_frames) == (expected, 8)
        assert text in details
        assert "told to" not in details
        took_s = await app.first_frames_s()
    assert not deaths
    return took_s


async def worker_dies_too_often(_: Path) -> float:
    """The server ends with it."""
    async with running_app("--max-restarts", "0") as app, streaming(app.target) as call:
        lost_s = clock()
        app.worker.kill()
        assert (await call.status())[0] is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(WorkerFailed, match="died too often"):
            await asyncio.shield(app.running)
        return clock() - lost_s


async def server_drains(_: Path) -> float:
    async with running_app() as app, streaming(app.target) as call:
        stopped_s = clock()
        app.stop.set()
        while call.drain is None:
            await call.read()
        assert await call.finish() == 160
        await eventually(lambda: app.supervisor.state is WorkerState.CLOSED, lambda: app.supervisor.state)
        return clock() - stopped_s


async def server_killed(folder: Path) -> float:
    """Worker and standby go with it."""
    with running_server(folder / "log", "--standby") as server:
        server.standby()
        children = psutil.Process(server.process.pid).children()
        async with streaming(server.target) as call:
            killed_s = clock()
            server.signal(signal.SIGKILL)
            assert (await call.status())[0] is grpc.StatusCode.UNAVAILABLE
            took_s = clock() - killed_s
        await eventually(lambda: all(map(has_ended, children)), lambda: children)
        return took_s


async def server_freezes(folder: Path) -> float:
    """Noticed by the client's own ping: its settings with shorter times."""
    with running_server(folder / "log") as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "_KEEPALIVE_MS", 1000)
        patch.setattr(connection, "_PING_TIMEOUT_MS", 500)
        async with grpc.aio.insecure_channel(server.target, options=connection.channel_options()) as channel:
            call = AsyncCall(channel)
            await call.send(CLIP, open=EXPLICIT)
            await call.read_frames(8)
            frozen_s = clock()
            server.signal(signal.SIGSTOP)
            try:
                with nap_clock() as naps:
                    assert (await call.status())[0] is grpc.StatusCode.UNAVAILABLE
                    assert naps() < 5
                took_s = clock() - frozen_s
            finally:
                server.signal(signal.SIGCONT)
        await asyncio.to_thread(server.expect_idle)
        return took_s


def by_row(*rows: RowT) -> dict[str, RowT]:
    return {row.__name__.replace("_", "-"): row for row in rows}


ON_A_SHARED_SERVER = by_row(
    client_leaves,
    link_cut,
    client_stalls,
    worker_killed,
    worker_hangs,
    replay_differs,
    standby_dies,
    standby_hangs,
    bad_latents,
    too_much_work,
    readers_stall,
    disk_full_at_client,
    encoder_fails_at_client,
    session_kills_workers,
    decoder_raises,
    device_memory_full,
)
ON_THEIR_OWN = by_row(client_freezes, worker_dies_too_often, server_drains, server_killed, server_freezes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_app() -> AsyncIterator[RunningApp]:
    """With small limits, and a decoder that does harm on command, for each row to meet its own."""
    limits = ("--max-sessions", str(MAX_SESSIONS), "--max-queued", "1", "--slots", "2", "--max-restarts", "1000")
    async with running_app("--standby", "--stall-timeout", "2", *limits, models=(harmful(TINY),)) as app:
        yield app


@pytest.mark.parametrize("row", ON_A_SHARED_SERVER)
async def test_row(shared_app: RunningApp, row: str, tmp_path: Path, recovered: Recovered) -> None:
    """What the table says happens, in bounded time; afterwards nothing is held, and the next session works."""
    await shared_app.ready()
    shared_app.remember()
    with nap_clock() as naps:
        recovered(row, await ON_A_SHARED_SERVER[row](shared_app, tmp_path))
        assert naps() < 30
    await shared_app.ready()
    await shared_app.expect_idle()
    await shared_app.serves()


@pytest.mark.parametrize("row", ON_THEIR_OWN)
async def test_row_of_a_servers_end(row: str, tmp_path: Path, recovered: Recovered) -> None:
    with nap_clock() as naps:
        recovered(row, await ON_THEIR_OWN[row](tmp_path))
        assert naps() < 30


async def test_the_table_has_these_rows() -> None:
    """And names tests that exist."""
    rows = re.findall(r"^\| `([a-z-]+)` \|.*\| (.*) \|$", DESIGN.read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == {*ON_A_SHARED_SERVER, *ON_THEIR_OWN}
    for name, tests in rows:
        for path in re.findall(r"`(tests/[^`]+)`", tests):
            assert (DESIGN.parents[1] / path).exists(), f"{name}: {path}"
