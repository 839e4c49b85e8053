"""Every way out of a stream ends in the same release: places, sessions, slots, tasks and descriptors are back in time.

Each ending is tried at several moments against one real server in the test's own process, which has one place, and in
the queue for that; after each of them the next good session works. The server has a user's patience, so that it is the
ending itself that it hears of, and none of its timeouts; those have a server of their own, and rows in the failure
table.
"""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.supervision import supervisor
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.clips import EXPLICIT, latents
from tests.support.proxy import FaultProxy
from tests.support.running_app import RunningApp, running_app
from tests.support.waiting import eventually, nap_clock

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEEPALIVE_S = 1.0
LIMIT_S = 2.0
"""The most seconds that a release may take, and that of a peer whose pings aren't answered."""
FROZEN_LIMIT_S = 2.5 * KEEPALIVE_S
CLIP = latents(40)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[RunningApp]:
    async with running_app("--allow-synthetic", "--max-sessions", "1") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pinging_app() -> AsyncIterator[RunningApp]:
    async with running_app("--keepalive", f"{KEEPALIVE_S:g}", "--max-sessions", "1") as running:
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


Ending = Callable[[Scene], Awaitable[None]]
ENDINGS: tuple[Ending, ...] = (
    cancel_call,
    close_channel,
    ask_to_cancel,
    half_close,
    send_nonsense,
    reset_link,
    pass_deadline,
)


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


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
async def test_ending(
    app: RunningApp,
    end: Ending,
    moment: Callable[[AsyncCall], Awaitable[None]],
    recovered: Callable[[str, float], None],
) -> None:
    app.remember()
    async with FaultProxy(app.target) as proxy:
        channel = grpc.aio.insecure_channel(proxy.target, options=CHANNEL_OPTIONS)
        async with channel:
            stream = AsyncCall(channel, timeout_s=0.5 if end is pass_deadline else None)
            # Where the machine stalls a deadline may pass earlier.
            with suppress(grpc.aio.AioRpcError, AssertionError) if end is pass_deadline else nullcontext():
                await moment(stream)
                assert app.num_sessions == 1
            await end(Scene(app, proxy, channel, stream))
            with nap_clock() as clock:
                await eventually(lambda: not app.num_sessions, app.held)
                took_s = clock()
    await app.expect_idle()
    recovered(f"ending by {end.__name__} -> place free", took_s)
    assert took_s < LIMIT_S
    await app.serves()


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
async def test_ending_in_the_queue(app: RunningApp, end: Ending, recovered: Callable[[str, float], None]) -> None:
    await end_in_the_queue(app, end, LIMIT_S, recovered)


async def test_freezing_in_the_queue(pinging_app: RunningApp, recovered: Callable[[str, float], None]) -> None:
    await end_in_the_queue(pinging_app, freeze_link, FROZEN_LIMIT_S, recovered)


async def end_in_the_queue(
    app: RunningApp, end: Ending, limit_s: float, recovered: Callable[[str, float], None]
) -> None:
    app.remember()
    took_s = await leave_the_queue(app, end)
    await app.expect_idle()
    recovered(f"ending in the queue by {end.__name__} -> the next hears of it", took_s)
    assert took_s < limit_s
    await app.serves()


async def leave_the_queue(app: RunningApp, end: Ending) -> float:
    """One holds the place, one leaves, and one behind it moves up; gives the time that this took."""
    async with (
        FaultProxy(app.target) as proxy,
        grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as others,
        grpc.aio.insecure_channel(proxy.target, options=CHANNEL_OPTIONS) as channel,
    ):
        holder, behind = AsyncCall(others), AsyncCall(others)
        await opened(holder)
        leaving = AsyncCall(channel, timeout_s=6.0 if end is pass_deadline else None)
        for stream in (leaving, behind):
            await stream.send(open=EXPLICIT)
            assert await stream.read()
        assert (leaving.positions, behind.positions) == ([1], [2])
        await end(Scene(app, proxy, channel, leaving))
        with nap_clock() as clock:
            assert await behind.read()
            took_s = clock()
        assert (leaving.is_open, behind.positions) == (False, [2, 1])
        holder.call.cancel()
        assert await behind.read()
        assert behind.is_open
        return took_s


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


@pytest.mark.parametrize(("number", "limit_s"), [(signal.SIGKILL, LIMIT_S), (signal.SIGSTOP, FROZEN_LIMIT_S)])
async def test_client_process_gets(
    pinging_app: RunningApp, number: signal.Signals, limit_s: float, recovered: Callable[[str, float], None]
) -> None:
    """SIGKILL closes its sockets; SIGSTOP leaves them open, and the server's ping is what notices."""
    app = pinging_app
    app.remember()
    code = textwrap.dedent(CLIENT.format(root=os.getcwd(), target=app.target))
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert client.stdout is not None
        assert await client.stdout.readline() == b"reading\n"
        assert app.num_sessions == 1
        client.send_signal(number)
        with nap_clock() as clock:
            await eventually(lambda: not app.num_sessions, app.held)
            took_s = clock()
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
