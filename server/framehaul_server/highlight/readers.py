"""The reader processes of one film: who reads what, and their end. Runs on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Final

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.highlight.messages import (
    Done,
    Filled,
    FilmInfo,
    NeedSlot,
    Probe,
    ReaderSetup,
    ReadPictures,
    Refused,
    Slot,
    ToReader,
)
from framehaul_pipeline.supervision.epoch import WorkerQuery
from framehaul_pipeline.supervision.reader import ReaderLost, ReaderProcess
from framehaul_server.errors import ReadersKilled

OnFilled = Callable[[int, int, tuple[float, ...]], Awaitable[None]]
"""Takes over a slot, and its generation, with so many frames."""

_AT_ONCE: Final = 0
"""Before all queries."""

_log = logging.getLogger(__name__)


class ReaderPlaces:
    """How many processes may read at a time, of all films: earlier queries come first.

    So films finish one after the other, and not all late.
    """

    def __init__(self, number: int) -> None:
        """Let so many read."""
        self.number = number
        self._num_free = number
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        """A heap, by query and then by arrival."""
        self._arrivals = itertools.count()

    @property
    def num_held(self) -> int:
        """Processes that read now."""
        return self.number - self._num_free

    @contextlib.asynccontextmanager
    async def one(self, query: int) -> AsyncIterator[None]:
        """Hold one, once it is this query's turn.

        Cancellation: it is given back.
        """
        if self._num_free:
            self._num_free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (query, next(self._arrivals), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._give_back()
                raise
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[-1]
            if not turn.done():
                turn.set_result(None)
                return
        self._num_free += 1


class Readers:
    """Readers of one film; a context manager that ends them all."""

    def __init__(self, setup: ReaderSetup, query: WorkerQuery, places: ReaderPlaces, name: str) -> None:
        """Start none yet."""
        self._setup, self._query, self._places, self.name = setup, query, places, name
        self._idle: list[ReaderProcess] = []
        self._all: set[ReaderProcess] = set()
        self._deaths = 0
        self.processor_seconds = 0.0

    def __enter__(self) -> Readers:
        """Nothing happens."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill them."""
        for process in self._all:
            process.close()

    async def probe(self) -> FilmInfo:
        """What the film is.

        Raises:
            InvalidInput: none that is read here.
            ReadersKilled: it ends its readers.
        """
        info: list[FilmInfo] = []
        await self._retried(Probe(), None, info.append)
        return info[0]

    async def run(self, jobs: Iterable[ToReader], on_filled: OnFilled, *, at_once: int) -> None:
        """Do jobs, `at_once` at a time, the first ones first.

        Raises:
            InvalidInput: the film can't be read.
            ReadersKilled: it ends its readers.
        """
        left = deque(jobs)

        async def work() -> None:
            while left:
                await self._retried(left.popleft(), on_filled)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(left))):
                group.create_task(work())

    async def _retried(
        self, job: ToReader, on_filled: OnFilled | None, on_info: Callable[[FilmInfo], None] | None = None
    ) -> None:
        # What is wrong with a film or a picture is told soon, whatever earlier films still wait for.
        turn = _AT_ONCE if isinstance(job, Probe | ReadPictures) else self._query.number
        while True:
            async with self._places.one(turn):
                process = self._idle.pop() if self._idle else self._start()
                try:
                    await self._do(process, job, on_filled, on_info)
                except ReaderLost:
                    self._deaths += 1
                    _log.warning("film's reader died pid=%d request=%s", process.pid, self.name)
                    process.close()
                    if self._deaths > 1:
                        raise ReadersKilled from None
                else:
                    self._idle.append(process)
                    return

    def _start(self) -> ReaderProcess:
        process = ReaderProcess(self._setup)
        self._all.add(process)
        return process

    async def _do(
        self,
        process: ReaderProcess,
        job: ToReader,
        on_filled: OnFilled | None,
        on_info: Callable[[FilmInfo], None] | None,
    ) -> None:
        samples = self._query.samples
        await process.send(job)
        while True:
            match await process.receive():
                case NeedSlot():
                    slot, generation = await samples.take(self._query.number)
                    process.lend(slot, partial(samples.abandon, slot, generation))
                    await process.send(Slot(slot=slot))
                case Filled(times=times):
                    slot = process.take_back()
                    assert on_filled is not None, "the job fills slots"
                    await on_filled(slot, generation, times)
                case FilmInfo() as info:
                    assert on_info is not None, "the job asks what the film is"
                    on_info(info)
                case Refused() as refused:
                    raise InvalidInput(refused.field, refused.value, refused.allowed)
                case Done(processor_seconds=seconds):
                    self.processor_seconds += seconds
                    return
