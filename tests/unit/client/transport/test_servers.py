"""Clients that know the address of a front alone."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import grpc
import numpy as np
import pytest

from framehaul_client import Access, FrameClient
from framehaul_client.errors import DataLoss, InvalidOption, NotFound, ProtocolError, Refused, ServerUnavailable
from framehaul_client.session import Session
from tests.support.clips import collect
from tests.support.fake_server import SESSION_ID, Behaviour, fake_server, make_latents
from tests.support.fronts import running_front
from tests.support.placing import report

pytestmark = pytest.mark.asyncio

NOWHERE = "127.0.0.1:1"
"""Nothing listens there."""
UNKNOWN = (grpc.StatusCode.NOT_FOUND, "no such session", ())


async def test_sessions_go_where_the_front_says_and_the_first_latents_once_more() -> None:
    behaviour = Behaviour()
    async with fake_server(behaviour) as server, running_front(server) as (target, _, _), FrameClient(target) as client:
        first = await collect(client, make_latents())
        assert np.array_equal(await collect(client, make_latents()), first)
        found = await client.locate("tiny")
        assert (found.target, found.alternatives) == (server, ())
    async with fake_server(Behaviour()) as server, FrameClient(server) as client:
        assert np.array_equal(await collect(client, make_latents()), first)
    assert len(behaviour.opens) == 2


async def test_alternatives_are_tried_in_order() -> None:
    """One that can't be reached, one that has no room, one that drains."""
    full, drains, good = Behaviour(), Behaviour(), Behaviour()
    full.refuse_open = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full", ())
    drains.refuse_open = (grpc.StatusCode.UNAVAILABLE, "draining", ())
    async with AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(fake_server(each)) for each in (full, drains, good)]
        target, _, _ = await stack.enter_async_context(running_front(NOWHERE, *targets))
        client = await stack.enter_async_context(FrameClient(target))
        assert len(await collect(client, make_latents()))
        assert [len(each.opens) for each in (full, drains, good)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "full", ()), Refused),
        ((grpc.StatusCode.UNAVAILABLE, "draining", ()), ServerUnavailable),
        ((grpc.StatusCode.NOT_FOUND, "model", ()), NotFound),
    ],
)
async def test_what_no_server_takes_is_refused_as_by_one(
    refusal: tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]], error: type[Exception]
) -> None:
    """In the words of the last one that was asked."""
    behaviour = Behaviour()
    behaviour.refuse_open = refusal
    async with fake_server(behaviour) as server, running_front(server) as (target, _, _), FrameClient(target) as client:
        with pytest.raises(error, match=f"{server}: {refusal[1]}"):
            await collect(client, make_latents())


async def lose(session: Session, lose_it: Callable[[], Awaitable[None]]) -> int:
    """Run a session, whose server or front is lost after three frames; gives the frames that came.

    The fake servers here know neither sessions of others nor a start in the middle, so that is where it ends.
    """
    num_frames = 0

    async def run() -> None:
        nonlocal num_frames
        async with session:
            async for _ in session:
                num_frames += 1
                if num_frames == 3:
                    await lose_it()

    with pytest.raises(DataLoss, match="first_frame=0"):
        await run()
    return num_frames


async def test_a_session_goes_on_at_another_server() -> None:
    """Its own has gone, and the front hasn't noticed yet: the other is asked for the session, and then for the rest."""
    lost, good = Behaviour(), Behaviour()
    good.refuse_resume = UNKNOWN
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(_Stoppable(lost))
        second = await stack.enter_async_context(fake_server(good))
        target, _, _ = await stack.enter_async_context(running_front(first.target, second))
        client = await stack.enter_async_context(FrameClient(target))
        num_frames = await lose(client.session(make_latents(), window_frames=4, retry_for_s=10), first.stop)
        resumed, restarted = good.opens
        assert (resumed.resume.session_id, resumed.resume.next_frame) == (SESSION_ID, num_frames)
        assert (restarted.resume.session_id, restarted.start_frame) == (b"", num_frames)
        assert restarted.age_ms > 0, "it is no new one to the other server"


@pytest.mark.parametrize("nested", [False, True])
async def test_a_session_leaves_a_queue_for_a_place_elsewhere(monkeypatch: pytest.MonkeyPatch, nested: bool) -> None:
    """Where another server has one by now, at the next word of its queue; whichever front on the way knows it."""
    monkeypatch.setattr("framehaul_client.transport.queueing.LOOK_S", 0.0)
    full, free = Behaviour(queue=[[3, 2]]), Behaviour()
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(fake_server(each)) for each in (full, free)]
        behind = first
        if nested:
            behind, _, _ = await stack.enter_async_context(running_front(first))
        target, table, _ = await stack.enter_async_context(running_front(behind))
        table.report(behind, report(1, sessions=10, queued=1), time.monotonic() + 60)
        client = await stack.enter_async_context(FrameClient(target))

        def add(position: int) -> None:
            if position == 2:
                table.report(second, report(2), time.monotonic() + 60)

        async with client.session(make_latents(), on_queued=add) as session:
            assert len([frame async for frame in session])
        assert [len(each.opens) for each in (full, free)] == [1, 1]


async def test_a_session_is_taken_up_again_though_the_front_is_gone() -> None:
    """At the server that had it."""
    behaviour = Behaviour()
    behaviour.refuse_resume = UNKNOWN
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(_Stoppable(behaviour))
        front = AsyncExitStack()
        target, _, _ = await front.enter_async_context(running_front(server.target))
        client = await stack.enter_async_context(FrameClient(target))

        async def lose_both() -> None:
            await front.aclose()
            await server.restart()

        num_frames = await lose(client.session(make_latents(), window_frames=4, retry_for_s=10), lose_both)
        assert [each.start_frame for each in behaviour.opens] == [0, 0, num_frames]


async def test_fronts_behind_fronts_are_followed_and_circles_are_not() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(fake_server(Behaviour()))
        inner, _, _ = await stack.enter_async_context(running_front(server))
        outer, placement, _ = await stack.enter_async_context(running_front(inner))
        client = await stack.enter_async_context(FrameClient(outer))
        assert len(await collect(client, make_latents()))
        placement.remove(inner)
        placement.report(outer, report(9), time.monotonic())
        with pytest.raises(ProtocolError, match="is a front, after 3 others"):
            await collect(client, make_latents())


async def test_a_token_goes_nowhere_it_could_not_go_by_itself() -> None:
    """The front is on this machine; the server that it names is reached over a network, in the clear."""
    access = Access(token="s3cret")
    async with running_front("gpu7.invalid:50051") as (target, _, _), FrameClient(target, access=access) as client:
        with pytest.raises(InvalidOption, match=r"gpu7.invalid:50051: the token would cross the network"):
            await asyncio.wait_for(collect(client, make_latents()), 60)


@pytest.mark.parametrize("named", ["unix:/run/x", "gpu7", "http://gpu7:1", ""])
async def test_what_is_no_address_is_not_followed(named: str) -> None:
    async with running_front(named) as (target, _, _), FrameClient(target) as client:
        with pytest.raises(ProtocolError, match="must be HOST:PORT"):
            await collect(client, make_latents())


async def test_connections_that_nobody_uses_are_few() -> None:
    """A client that lives long meets many servers."""
    async with AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(fake_server(Behaviour())) for _ in range(11)]
        target, placement, _ = await stack.enter_async_context(running_front())
        client = await stack.enter_async_context(FrameClient(target))
        for index, server in enumerate(targets):
            placement.report(server, report(index + 1), time.monotonic())
            await collect(client, make_latents())
            placement.remove(server)
        assert client._servers is not None
        assert list(client._servers._channels) == targets[-9:]


class _Stoppable:
    """A fake server that can be stopped, and started again at its port."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._stack = AsyncExitStack()
        self.target = ""

    async def __aenter__(self) -> "_Stoppable":
        self.target = await self._stack.enter_async_context(fake_server(self._behaviour))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        await self._stack.aclose()

    async def restart(self) -> None:
        await self.stop()
        port = int(self.target.rpartition(":")[2])
        await self._stack.enter_async_context(fake_server(self._behaviour, port=port))
