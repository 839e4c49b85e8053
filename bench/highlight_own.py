"""The arms of `bench.highlight_arms` that are the product's own code: its requests, readers, ring and batches.

In one process, without gRPC; or the real server, asked by the real client.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from tests.support.planted import Planted

from bench.highlight_simple import Found
from framehaul.v1 import highlights_pb2
from framehaul_client import FrameClient, Query, Scores
from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.device.devices import open_device
from framehaul_pipeline.embedding.embedder import Embedder
from framehaul_pipeline.link.messages import (
    CloseQuery,
    Embedded,
    EmbedFrames,
    OpenQuery,
    QueryFailed,
    SamplesReturned,
    ToServer,
)
from framehaul_pipeline.scheduling.batches import Batch, Batches
from framehaul_pipeline.supervision.epoch import QueryEvents, WorkerQuery
from framehaul_pipeline.supervision.samples import Samples
from framehaul_pipeline.worker.highlights import BatchInFlight, Highlights
from framehaul_server.core.highlight_request import HighlightAsked, HighlightRules
from framehaul_server.core.highlight_totals import HighlightTotals
from framehaul_server.highlight.readers import ReaderPlaces
from framehaul_server.highlight.request import HighlightWork, Request, Surroundings
from framehaul_server.highlight.source import UploadSpace


class _AsTheyCome(Batches):
    """Batches in the order in which they came, whichever film's they are."""

    def add(self, batch: Batch) -> None:
        self._waiting.setdefault(0, deque()).append(batch)

    def close(self, query: int) -> list[Batch]:
        gone = [batch for batch in self._waiting.get(0, ()) if batch.query == query]
        kept = deque(batch for batch in self._waiting.pop(0, ()) if batch.query != query)
        if kept:
            self._waiting[0] = kept
        return gone


class _PlacesAsTheyCome(ReaderPlaces):
    """Readers likewise."""

    @asynccontextmanager
    async def one(self, query: int) -> AsyncIterator[None]:
        async with super().one(0):
            yield


class _OwnWorker:
    """What a request sees of supervisor and epoch, and what the worker does for films, in this process."""

    def __init__(self, config: WorkerConfig, embedder: Embedder, *, by_request: bool) -> None:
        self._loop = asyncio.get_running_loop()
        device = open_device(config.device)
        self.device = device.name
        self._samples = Samples("bench-samples", config)
        self._highlights = Highlights(device, self._samples.ring, embedder, send=self._send)
        self._highlights.warm_up()
        if not by_request:
            self._highlights.batches = _AsTheyCome()
        self._changed = threading.Condition()
        self._stopping = False
        self._launched: queue.SimpleQueue[BatchInFlight | None] = queue.SimpleQueue()
        self._queries: dict[int, QueryEvents] = {}
        self._num_queries = 0
        self._threads = [threading.Thread(target=target) for target in (self._launch, self._complete)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._highlights.close()
        self._samples.close()

    def open_query(self, events: QueryEvents) -> WorkerQuery:
        self._num_queries += 1
        self._queries[self._num_queries] = events
        here: Any = self
        return WorkerQuery(here, self._num_queries, self._samples)

    def send_query(self, message: OpenQuery | EmbedFrames) -> None:
        self._apply(message)

    def drop_query(self, number: int) -> None:
        if self._queries.pop(number, None) is not None:
            self._apply(CloseQuery(query=number))

    def _apply(self, message: OpenQuery | EmbedFrames | CloseQuery) -> None:
        with self._changed:
            self._highlights.apply(message)
            self._changed.notify_all()

    def _send(self, message: ToServer) -> None:
        self._loop.call_soon_threadsafe(self._hear, message)

    def _hear(self, message: ToServer) -> None:
        match message:
            case SamplesReturned():
                self._samples.give_back(message.slot, message.generation)
            case Embedded() if message.query in self._queries:
                self._queries[message.query].on_embedded(message)
            case QueryFailed():
                raise RuntimeError(message.reason)

    def _launch(self) -> None:
        while True:
            with self._changed:
                while (job := self._highlights.take(chunks_first=False)) is None:
                    if self._stopping:
                        self._launched.put(None)
                        return
                    self._changed.wait()
            self._launched.put(self._highlights.launch(job))

    def _complete(self) -> None:
        while (flight := self._launched.get()) is not None:
            self._highlights.complete(flight)
            with self._changed:
                self._highlights.finish(flight.batch)
                self._changed.notify_all()


class _Answers:
    """The end of a request that has no gRPC."""

    def __init__(self) -> None:
        self.start = self.device_s = 0.0

    async def read(self) -> Request | None:
        return None

    async def write(self, message: bytes) -> None:
        response = highlights_pb2.HighlightResponse.FromString(message)
        if response.HasField("scores"):
            self.start = response.scores.excerpts[0].start
        if response.HasField("done"):
            self.device_s = response.done.device_seconds


class OwnArm:
    """The product's code in one process."""

    def __init__(
        self, embedder: Embedder, device: torch.device, folder: Path, *, loaders: int, by_request: bool
    ) -> None:
        """Films lie in `folder`."""
        self._runner = asyncio.Runner()
        self._config = WorkerConfig(device=device.type, embedding=embedder.model)
        self._rules = HighlightRules(model=embedder.model, has_root=True, max_upload_bytes=1)
        self._worker = self._runner.run(self._started(embedder, by_request))
        ready = asyncio.Event()
        ready.set()
        self._around = Surroundings(
            worker=self._worker,
            worker_ready=ready,
            config=self._config,
            rules=self._rules,
            root=folder,
            space=UploadSpace(1),
            readers=ReaderPlaces(loaders) if by_request else _PlacesAsTheyCome(loaders),
            totals=HighlightTotals(),
            stall_timeout_s=60.0,
        )

    async def _started(self, embedder: Embedder, by_request: bool) -> _OwnWorker:
        return _OwnWorker(self._config, embedder, by_request=by_request)

    def close(self) -> None:
        """End it."""
        self._worker.close()
        self._runner.close()

    def run(self, films: list[Planted]) -> list[Found]:
        """Search all at the same time."""
        return self._runner.run(_all_of(map(self._search, films)))

    async def _search(self, planted: Planted) -> Found:
        started_s = time.perf_counter()
        opened = highlights_pb2.HighlightOpen(images=[planted.picture.read_bytes()], path=planted.film.name)
        answers = _Answers()
        await HighlightWork(HighlightAsked.of(opened, self._rules), self._around, answers, planted.film.name).run()
        return Found(answers.start, time.perf_counter() - started_s, answers.device_s)


class ServedArm:
    """The real server and its worker, asked over 127.0.0.1."""

    def __init__(self, target: str) -> None:
        """Connect to a server whose root has the films."""
        self._runner = asyncio.Runner()
        self._client = FrameClient(target)
        self._runner.run(self._client.__aenter__())

    def close(self) -> None:
        """Disconnect."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    def run(self, films: list[Planted]) -> list[Found]:
        """Search all at the same time."""
        return self._runner.run(_all_of(map(self._search, films)))

    async def _search(self, planted: Planted) -> Found:
        started_s = time.perf_counter()
        query = Query(images=[planted.picture.read_bytes()])
        async with self._client.highlight(f"server:{planted.film.name}", query) as found:
            scores = [event async for event in found if isinstance(event, Scores)]
        return Found(scores[0].excerpts[0].start, time.perf_counter() - started_s, math.nan)


async def _all_of(searches: Iterable[Coroutine[Any, Any, Found]]) -> list[Found]:
    return await asyncio.gather(*searches)
