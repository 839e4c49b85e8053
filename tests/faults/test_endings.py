"""Every way out of a stream ends in the same release: places, sessions, slots, tasks and descriptors are back in time.

Each ending is tried at several moments against one real server in the test's own process, which has one place, and in
the queue for that; after each of them the next good session works.
"""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.supervision import supervisor
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.clips import EXPLICIT, latents, opening
from tests.support.proxy import FaultProxy
from tests.support.running_app import RunningApp, running_app
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEEPALIVE_S = 1.0
STALL_TIMEOUT_S = 2.0
CLIP = latents(40)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[RunningApp]:
    times = ("--keepalive", f"{KEEPALIVE_S:g}", "--stall-timeout", f"{STALL_TIMEOUT_S:g}")
    async with running_app(*times, "--allow-synthetic", "--max-sessions", "1") as running:
        yield running


@dataclass
class Scene:
    """One client's session in the middle of its life."""

    app: RunningApp
    proxy: FaultProxy
    channel: grpc.aio.Channel
    stream: AsyncCall


async def cancel_call(scene: Scene) -> None:
    scene.stream.call.cancel()


async def close_channel(scene: Scene) -> None:
    await scene.channel.close()


async def ask_to_cancel(scene: Scene) -> None:
    await scene.stream.send(cancel=True)
    code, _ = await scene.stream.status()
    assert code is grpc.StatusCode.CANCELLED


async def half_close(scene: Scene) -> None:
    await scene.stream.call.done_writing()
    code, _ = await scene.stream.status()
    assert code is grpc.StatusCode.CANCELLED


async def send_nonsense(scene: Scene) -> None:
    await scene.stream.call.write(b"\xff\xff\xff")
    code, _ = await scene.stream.status()
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def reset_link(scene: Scene) -> None:
    scene.proxy.cut()


async def freeze_link(scene: Scene) -> None:
    """Half open: neither side hears of it; the server's ping isn't answered."""
    scene.proxy.freeze()


async def pass_deadline(scene: Scene) -> None:
    """The call was made with one."""
    code, _ = await scene.stream.status()
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED


async def stall(scene: Scene) -> None:
    """Alive, and says nothing more; once it reads on it hears why."""
    await asyncio.sleep(STALL_TIMEOUT_S)
    code, details = await asyncio.wait_for(scene.stream.status(), 20)
    assert code is grpc.StatusCode.ABORTED
    assert "no frame was taken" in details


Ending = Callable[[Scene], Awaitable[None]]
ENDINGS: list[tuple[Ending, float]] = [
    (cancel_call, 2.0),
    (close_channel, 2.0),
    (ask_to_cancel, 2.0),
    (half_close, 2.0),
    (send_nonsense, 2.0),
    (reset_link, 2.0),
    (freeze_link, 2.5 * KEEPALIVE_S),
    (pass_deadline, 2.0),
    (stall, 2.0),
]
"""And the most seconds that the release may take."""


async def opened(stream: AsyncCall) -> None:
    await stream.send(open=EXPLICIT)
    assert await stream.read()


async def decoding(stream: AsyncCall) -> None:
    await opened(stream)
    await stream.send(CLIP)


async def window_closed(stream: AsyncCall) -> None:
    await decoding(stream)
    await stream.read_frames(8)


async def synthetic(stream: AsyncCall) -> None:
    """The server makes the latents itself."""
    clip = pb.Synthetic(num_latents=400, height=64, width=64, seed=1)
    await stream.send(open=EXPLICIT, synthetic=clip)
    await stream.read_frames(4)


MOMENTS = (opened, decoding, window_closed, synthetic)
CASES = [
    pytest.param(end, limit_s, moment, id=f"{end.__name__}-{moment.__name__}")
    for end, limit_s in ENDINGS
    for moment in MOMENTS
    if moment is window_closed or end not in (freeze_link, stall)  # which take seconds each
]


@pytest.mark.parametrize(("end", "limit_s", "moment"), CASES)
async def test_ending(
    app: RunningApp,
    end: Ending,
    limit_s: float,
    moment: Callable[[AsyncCall], Awaitable[None]],
    recovered: Callable[[str, float], None],
) -> None:
    app.remember()
    async with FaultProxy(app.target) as proxy:
        channel = grpc.aio.insecure_channel(proxy.target, options=CHANNEL_OPTIONS)
        async with channel:
            stream = AsyncCall(channel, timeout_s=0.5 if end is pass_deadline else None)
            await moment(stream)
            assert app.num_sessions == 1
            await end(Scene(app, proxy, channel, stream))
            left_s = asyncio.get_running_loop().time()
            await eventually(lambda: not app.num_sessions, app.held)
            took_s = asyncio.get_running_loop().time() - left_s
    await app.expect_idle()
    recovered(f"ending by {end.__name__} -> place free", took_s)
    assert took_s < limit_s
    await app.serves()


QUEUED = [pytest.param(*each, id=each[0].__name__) for each in ENDINGS if each[0] is not stall]  # which isn't watched


@pytest.mark.parametrize(("end", "limit_s"), QUEUED)
async def test_ending_in_the_queue(
    app: RunningApp, end: Ending, limit_s: float, recovered: Callable[[str, float], None]
) -> None:
    app.remember()
    took_s = await leave_the_queue(app, end)
    await app.expect_idle()
    recovered(f"ending in the queue by {end.__name__} -> the next hears of it", took_s)
    assert took_s < limit_s
    await app.serves()


async def keep_from_stalling(stream: AsyncCall) -> None:
    """Send a latent now and then, however long the others take."""
    while True:
        await stream.send(latents(1))
        await asyncio.sleep(STALL_TIMEOUT_S / 4)


async def leave_the_queue(app: RunningApp, end: Ending) -> float:
    """One holds the place, one leaves, and one behind it moves up; gives the time that this took."""
    async with (
        FaultProxy(app.target) as proxy,
        grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as others,
        grpc.aio.insecure_channel(proxy.target, options=CHANNEL_OPTIONS) as channel,
    ):
        holder, behind = AsyncCall(others), AsyncCall(others)
        await opened(holder)
        holding = asyncio.create_task(keep_from_stalling(holder))
        leaving = AsyncCall(channel, timeout_s=1.5 * STALL_TIMEOUT_S if end is pass_deadline else None)
        for stream in (leaving, behind):
            await stream.send(open=EXPLICIT)
            assert await stream.read()
        assert (leaving.positions, behind.positions) == ([1], [2])
        await end(Scene(app, proxy, channel, leaving))
        left_s = asyncio.get_running_loop().time()
        assert await asyncio.wait_for(behind.read(), 20)
        took_s = asyncio.get_running_loop().time() - left_s
        assert (leaving.is_open, behind.positions) == (False, [2, 1])
        holding.cancel()
        holder.call.cancel()
        assert await behind.read()
        assert behind.is_open
        return took_s


async def test_blocked_reader_that_stalls_is_ended_and_hears_why_when_it_reads_on(app: RunningApp) -> None:
    """AUTO: its frames fill every buffer on the way, so that the server's write is what waits."""
    app.remember()
    await stall_in_a_write(app)
    await app.expect_idle()
    await app.serves()


async def stall_in_a_write(app: RunningApp) -> None:
    async with grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as channel:
        stream = AsyncCall(channel)
        clip = pb.Synthetic(num_latents=200, height=256, width=256, seed=1)
        await stream.send(open=opening(geometry=None), synthetic=clip, end_of_latents=True)
        await stream.read_frames(4)
        await eventually(lambda: not app.supervisor.statistics().num_sessions, lambda: "the session's end", 60.0)
        assert (await asyncio.wait_for(stream.status(), 20))[0] is grpc.StatusCode.ABORTED


CLIENT = """
    import sys
    sys.path[:0] = [{root!r}]
    import grpc
    from tests.support.call import Call
    from tests.support.clips import latents, opening
    with grpc.insecure_channel({target!r}) as channel, Call(channel) as client:
        client.send(latents(40), open=opening())
        client.read_frames(4)
        print("reading", flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize(("number", "limit_s"), [(signal.SIGKILL, 2.0), (signal.SIGSTOP, 2.5 * KEEPALIVE_S)])
async def test_client_process_gets(
    app: RunningApp, number: signal.Signals, limit_s: float, recovered: Callable[[str, float], None]
) -> None:
    """SIGKILL closes its sockets; SIGSTOP leaves them open, and the server's ping is what notices."""
    app.remember()
    code = textwrap.dedent(CLIENT.format(root=os.getcwd(), target=app.target))
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert client.stdout is not None
        assert await asyncio.wait_for(client.stdout.readline(), 30) == b"reading\n"
        assert app.num_sessions == 1
        client.send_signal(number)
        left_s = asyncio.get_running_loop().time()
        await eventually(lambda: not app.num_sessions, app.held)
        took_s = asyncio.get_running_loop().time() - left_s
    finally:
        if client.returncode is None:
            client.kill()
        await client.communicate()
    recovered(f"client process gets {number.name} -> place free", took_s)
    assert took_s < limit_s
    await app.expect_idle()
    await app.serves()


async def test_a_worker_that_runs_no_more_does_not_keep_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session hears of the end when the grace is over, and it is killed soon after."""
    monkeypatch.setattr(supervisor, "_STOP_TIMEOUT_S", 0.2)
    async with running_app("--grace", "0.2") as app:
        worker = app.worker
        async with grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as channel:
            stream = AsyncCall(channel)
            await decoding(stream)
            await stream.read_frames(4)
            worker.suspend()
            app.stop.set()
            code, details = await stream.status()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "grace period" in details
        await eventually(lambda: not worker.is_running(), lambda: worker)
