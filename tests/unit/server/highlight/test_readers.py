import asyncio

import pytest

from framehaul_server.highlight.readers import ReaderPlaces

pytestmark = pytest.mark.asyncio


async def read(places: ReaderPlaces, query: int, seen: list[int]) -> None:
    async with places.one(query):
        seen.append(query)
        await asyncio.sleep(0)


async def test_earlier_queries_have_readers_first() -> None:
    """However many parts of a later film wait already."""
    places, seen = ReaderPlaces(1), list[int]()
    async with asyncio.TaskGroup() as group:
        for query in (2, 3, 3, 1, 2):
            group.create_task(read(places, query, seen))
    assert seen == [2, 1, 2, 3, 3]


async def test_who_is_cancelled_holds_none() -> None:
    """While it waits, or when its turn has just come."""
    places, seen = ReaderPlaces(1), list[int]()
    async with places.one(1):
        waits, has_turn, last = (asyncio.create_task(read(places, query, seen)) for query in (2, 3, 4))
        await asyncio.sleep(0)
        waits.cancel()
    has_turn.cancel()
    await asyncio.gather(waits, has_turn, last, return_exceptions=True)
    assert seen == [4]
    async with places.one(5):
        pass
