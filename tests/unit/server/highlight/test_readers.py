import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from framehaul_pipeline.highlight.messages import Done, FilmInfo, FromReader, Probe, Scan, ToReader
from framehaul_server.highlight.readers import ReaderPlaces, Readers

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


class FakeReader:
    """Does each job at once."""

    def __init__(self, done: list[ToReader]) -> None:
        self._done = done
        self._answers: list[FromReader] = []

    async def send(self, job: ToReader) -> None:
        self._done.append(job)
        info = FilmInfo(
            duration=1, width=2, height=2, rate_numerator=25, rate_denominator=1, seekable=True, key_times=()
        )
        self._answers = [*([info] if isinstance(job, Probe) else []), Done(processor_seconds=0, end=0)]

    async def receive(self) -> FromReader:
        return self._answers.pop(0)

    def close(self) -> None:
        return


async def test_what_a_film_is_is_told_before_earlier_films_are_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """So one that is no film is refused soon."""
    places, done = ReaderPlaces(1), list[ToReader]()
    setup: Any = None
    monkeypatch.setattr("framehaul_server.highlight.readers.ReaderProcess", lambda _setup: FakeReader(done))
    queries: Any = (SimpleNamespace(number=number, samples=None) for number in (1, 2))
    with Readers(setup, next(queries), places, "a") as earlier, Readers(setup, next(queries), places, "b") as later:
        scan = Scan(start=0, end=1, per_second=2)
        async with asyncio.TaskGroup() as group, places.one(1):
            group.create_task(earlier.run([scan], lambda *_: asyncio.sleep(0), at_once=1))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            group.create_task(later.probe())
            await asyncio.sleep(0)
    assert done == [Probe(), scan]
