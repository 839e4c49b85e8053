"""Every way out of the queue for a place: the entry goes, and those behind it hear of it; nothing else is left."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
import pytest_asyncio

from tests.faults.test_endings import ENDINGS, OPTIONS, Ending, Scene, pass_deadline, stall
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.clips import EXPLICIT
from tests.support.proxy import FaultProxy
from tests.support.running_app import RunningApp, running_app

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[RunningApp]:
    async with running_app(*OPTIONS, "--max-sessions", "1") as running:
        yield running


CASES = [pytest.param(*each, id=each[0].__name__) for each in ENDINGS if each[0] is not stall]  # which isn't watched


@pytest.mark.parametrize(("end", "limit_s"), CASES)
async def test_ending_in_the_queue(
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
        await holder.send(open=EXPLICIT)
        assert await holder.read()
        leaving = AsyncCall(channel, timeout_s=2.0 if end is pass_deadline else None)
        for stream in (leaving, behind):
            await stream.send(open=EXPLICIT)
            assert await stream.read()
        assert (leaving.positions, behind.positions) == ([1], [2])
        await end(Scene(app, proxy, channel, leaving))
        left_s = asyncio.get_running_loop().time()
        assert await asyncio.wait_for(behind.read(), 20)
        took_s = asyncio.get_running_loop().time() - left_s
        assert (leaving.is_open, behind.positions) == (False, [2, 1])
        holder.call.cancel()
        assert await behind.read()
        assert behind.is_open
        return took_s
