"""One stream of latents for several sessions."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from framehaul_client.core.latents import LatentArray
from framehaul_client.source.tee import tee

LATENTS = [np.full((1, 2, 2), value, np.float16) for value in range(4)]


@pytest.mark.asyncio
@pytest.mark.parametrize("order", ["0011", "1100", "0101", "01101001"])
async def test_each_gets_all_whoever_asks_first(order: str) -> None:
    """And the source is asked for each latent once."""
    num_asked = 0

    async def source() -> AsyncIterator[LatentArray]:
        nonlocal num_asked
        for latent in LATENTS:
            num_asked += 1
            await asyncio.sleep(0)
            yield latent

    parts = tee(source(), 2)
    taken: list[list[LatentArray]] = [[], []]
    for who in map(int, order):
        taken[who].append(await anext(parts[who]))
    rest = await asyncio.gather(*(_all(part) for part in parts))
    assert [[*before, *after] for before, after in zip(taken, rest, strict=True)] == [LATENTS, LATENTS]
    assert num_asked == 4


async def _all(latents: AsyncIterator[LatentArray]) -> list[LatentArray]:
    return [latent async for latent in latents]
