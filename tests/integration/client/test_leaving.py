"""Ways to leave a session early: each cancels at the server and leaves nothing behind."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from framehaul_client import (
    FrameClient,
)
from tests.support.fake_server import RGB_SHAPE, Behaviour, expected_frames, make_latents

pytestmark = pytest.mark.asyncio


async def left_by_break(client: FrameClient) -> None:
    async with client.session(make_latents(30)) as session:
        async for _ in session:
            break


async def left_by_exception(client: FrameClient) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with client.session(make_latents(30)) as session:
            async for _ in session:
                raise ZeroDivisionError


async def left_by_cancel(client: FrameClient) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with client.session(make_latents(30)) as session:
            await anext(session)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def left_while_waiting(client: FrameClient) -> None:
    async def never() -> AsyncIterator[np.ndarray[Any, Any]]:
        yield make_latents(1)[0]
        await asyncio.Event().wait()

    async with client.session(never()) as session:
        await anext(session)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(session), 0.05)


@pytest.mark.parametrize("leave", [left_by_break, left_by_exception, left_by_cancel, left_while_waiting])
async def test_leaving_cancels_at_the_server(target: str, behaviour: Behaviour, leave: Any) -> None:
    """However a session is left, the server's handler ends at once."""
    async with FrameClient(target) as client:
        await leave(client)
        await asyncio.wait_for(behaviour.left.wait(), 60)
        assert behaviour.left_early


async def test_a_wait_that_is_cancelled_loses_no_frame(target: str) -> None:
    """A consumer may give up waiting and come back."""
    latents = make_latents(3)
    release = asyncio.Event()

    async def produce() -> AsyncIterator[np.ndarray[Any, Any]]:
        yield latents[0]
        await release.wait()
        yield latents[1]
        yield latents[2]

    async with FrameClient(target) as client, client.session(produce()) as session:
        frames = [await anext(session)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(session), 0.05)
        release.set()
        frames += [frame async for frame in session]
    assert np.array_equal(np.stack(frames), expected_frames(latents, RGB_SHAPE))


async def test_generators_are_closed_with_the_session(target: str) -> None:
    """A generator's `finally` runs when the session is left, on the loop or on its thread."""
    closed = []

    async def on_loop() -> AsyncIterator[np.ndarray[Any, Any]]:
        try:
            for latent in make_latents(30):
                yield latent
        finally:
            closed.append("loop")

    def on_thread() -> Iterator[np.ndarray[Any, Any]]:
        try:
            yield from make_latents(30)
        finally:
            closed.append("thread")

    async with FrameClient(target) as client:
        for produce in (on_loop, on_thread):
            async with client.session(produce()) as session:
                await anext(session)
    assert closed == ["loop", "thread"]


async def test_a_session_left_open_is_cancelled_with_a_warning(target: str, behaviour: Behaviour) -> None:
    """Closing the client ends its sessions, and says that one was forgotten."""
    with pytest.warns(ResourceWarning, match="left open"):  # noqa: PT031
        async with FrameClient(target) as client:
            session = client.session(make_latents(30))
            await session.__aenter__()
            await anext(session)
    await asyncio.wait_for(behaviour.left.wait(), 60)
    with pytest.raises(RuntimeError, match="not open"):
        await anext(session)


async def test_a_client_left_open_warns(target: str) -> None:
    """A connection that is dropped without closing says so."""
    client = FrameClient(target)
    await client.__aenter__()
    channel = client._channel
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del client
        gc.collect()
    assert any("never closed" in str(warning.message) for warning in caught)
    assert channel is not None
    await channel.close()
