"""One stream of latents for several sessions."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from framehaul_client.core.latents import LatentArray
from framehaul_client.errors import LatentsFileError, Refused
from framehaul_client.source import tee
from framehaul_client.source.tee import Tee, TeeReader
from tests.support.driven_service import settle

pytestmark = pytest.mark.asyncio

LATENTS = [np.full((1, 2, 2), value, np.float16) for value in range(4)]
LATENT_BYTES = 8


class Source:
    """Gives latents, each when it may, and then an error or the end."""

    def __init__(self, num_allowed: int = len(LATENTS), error: Exception | None = None) -> None:
        self.num_asked = 0
        self.allowed = asyncio.Semaphore(num_allowed)
        self.closed = False
        self._error = error

    async def __aiter__(self) -> AsyncIterator[LatentArray]:
        try:
            for latent in LATENTS:
                self.num_asked += 1
                await self.allowed.acquire()
                yield latent
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


def take(reader: TeeReader) -> asyncio.Task[LatentArray]:
    async def one() -> LatentArray:
        return await anext(reader)

    return asyncio.create_task(one())


async def take_all(reader: TeeReader) -> list[LatentArray]:
    return [latent async for latent in reader]


@pytest.mark.parametrize("order", ["0011", "1100", "0101", "01101001"])
async def test_each_gets_all_whoever_asks_first(order: str) -> None:
    """And the source is asked for each latent once."""
    source = Source()
    readers = Tee(source, 2).readers
    taken: list[list[LatentArray]] = [[], []]
    for who in map(int, order):
        taken[who].append(await anext(readers[who]))
    rest = await asyncio.gather(*map(take_all, readers))
    assert [[*before, *after] for before, after in zip(taken, rest, strict=True)] == [LATENTS, LATENTS]
    assert source.num_asked == 4


async def test_who_is_ahead_waits_for_the_slower_one() -> None:
    """No more is read than the slower one may leave lying; when it takes a latent, one more."""
    source = Source()
    ahead, behind = Tee(source, 2, max_bytes=2 * LATENT_BYTES).readers
    assert [await anext(ahead) for _ in range(2)] == LATENTS[:2]
    third = take(ahead)
    await settle()
    assert (third.done(), source.num_asked) == (False, 2)
    assert await anext(behind) is LATENTS[0]
    assert await third is LATENTS[2]
    assert source.num_asked == 3


async def test_who_leaves_holds_nobody_up() -> None:
    """It was done early, or has failed; leaving twice is fine."""
    ahead, behind = Tee(Source(), 2, max_bytes=LATENT_BYTES).readers
    assert await anext(ahead) is LATENTS[0]
    rest = asyncio.create_task(take_all(ahead))
    await settle()
    await behind.aclose()
    await behind.aclose()
    assert await rest == LATENTS[1:]


async def test_one_that_takes_nothing_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may wait for the very place that the other one has."""
    monkeypatch.setattr(tee, "_PATIENCE_S", 0.0)
    ahead, _ = Tee(Source(), 2, max_bytes=LATENT_BYTES).readers
    await anext(ahead)
    with pytest.raises(Refused, match="latents wait for a session that took none for 0 s"):
        await anext(ahead)


async def test_latents_that_lie_ready_wait_for_nobody() -> None:
    """The one behind takes its own while the other one waits for the source."""
    source = Source(num_allowed=1)
    ahead, behind = Tee(source, 2).readers
    await anext(ahead)
    second = take(ahead)
    await settle()
    assert await anext(behind) is LATENTS[0]
    other = take(behind)
    source.allowed.release()
    assert [await second, await other] == [LATENTS[1]] * 2


async def test_a_reader_that_is_cancelled_loses_nothing_and_ends_nothing() -> None:
    """Cancelling a generator would end it for all. The last one that leaves does so."""
    source = Source(num_allowed=0)
    first, second = Tee(source, 2).readers
    cancelled = take(first)
    await settle()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    waiting = take(second)
    source.allowed.release()
    assert await waiting is LATENTS[0]
    assert await anext(first) is LATENTS[0]
    waiting = take(first)
    await settle()
    waiting.cancel()
    await first.aclose()
    assert not source.closed
    await second.aclose()
    assert source.closed


async def test_each_hears_of_an_error_behind_the_latents_before_it() -> None:
    """A pipe that was cut off."""
    for reader in Tee(Source(error=LatentsFileError("cut off")), 2).readers:
        for latent in LATENTS:
            assert await anext(reader) is latent
        with pytest.raises(LatentsFileError, match="cut off"):
            await anext(reader)
