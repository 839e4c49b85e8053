"""What a caller of the library can get wrong."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from framehaul_client import (
    FrameClient,
    InvalidLatents,
)
from tests.support.clips import collect
from tests.support.fake_server import Behaviour, make_latents

pytestmark = pytest.mark.asyncio


async def test_the_producers_own_error_reaches_the_consumer(target: str, behaviour: Behaviour) -> None:
    """An exception in the latents' iterator is raised in the frames' loop, and the server is told."""

    async def produce() -> AsyncIterator[np.ndarray[Any, Any]]:
        yield make_latents(1)[0]
        raise ZeroDivisionError("the sampler broke")

    async with FrameClient(target) as client:
        with pytest.raises(ZeroDivisionError, match="sampler"):
            await collect(client, produce())
        await asyncio.wait_for(behaviour.left.wait(), 60)


async def test_no_latents_is_an_error_before_anything_is_sent(target: str, behaviour: Behaviour) -> None:
    """An empty iterator opens no session."""
    async with FrameClient(target) as client:
        with pytest.raises(InvalidLatents, match="at least one"):
            await collect(client, iter(()))
    assert not behaviour.opens


@pytest.mark.parametrize(
    ("num_latents", "match"), [(9, r"ended after 6: num_latents=9"), (None, "")], ids=["too few", "unknown"]
)
async def test_announced_latents_must_come(target: str, num_latents: int | None, match: str) -> None:
    """Fewer latents than announced is an error; without an announcement any number will do."""
    async with FrameClient(target) as client:
        if num_latents is None:
            assert len(await collect(client, iter(make_latents()))) == 21
        else:
            with pytest.raises(InvalidLatents, match=match):
                await collect(client, iter(make_latents()), num_latents=num_latents)


async def test_no_more_latents_are_taken_than_announced(target: str, behaviour: Behaviour) -> None:
    """num_latents ends an endless iterator."""

    def produce() -> Iterator[np.ndarray[Any, Any]]:
        while True:
            yield make_latents(1)[0]

    async with FrameClient(target) as client:
        assert len(await collect(client, produce(), num_latents=3)) == 9
    assert len(behaviour.latents) == 3


async def test_a_session_is_entered_once(target: str) -> None:
    """A second use is a fault of the caller's."""
    async with FrameClient(target) as client:
        session = client.session(make_latents(1))
        async with session:
            pass
        with pytest.raises(RuntimeError, match="make a new one"):
            await session.__aenter__()
    with pytest.raises(RuntimeError, match="not connected"):
        client.session(make_latents(1))
