"""Samples of one film: what readers found, and how alike the worker finds it. Runs on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np

from framehaul_pipeline.config import HISTOGRAM_BYTES, MAX_BATCH_FRAMES
from framehaul_pipeline.errors import PipelineError
from framehaul_pipeline.highlight.rank import Floats, Samples
from framehaul_pipeline.link.messages import Embedded, MapFrames, Mapped
from framehaul_pipeline.models.embedding import EmbeddingModel
from framehaul_pipeline.supervision.epoch import WorkerQuery
from framehaul_pipeline.supervision.reader import ReaderLost

ResultT = TypeVar("ResultT")


class FilmSamples:
    """Collects them; what a `WorkerQuery` calls."""

    def __init__(
        self, kinds: int, batch_frames: int, side: int, *, on_batch: Callable[[int], None] = lambda device_ns: None
    ) -> None:
        """Expect so many kinds of similarity, and batches as readers were told to make them.

        `on_batch` hears of each batch that was compared or mapped for how long it had the device.
        """
        self._kinds, self._batch_frames, self._side = kinds, batch_frames, side
        self._times: list[float] = []
        self._histograms: list[Floats] = []
        self._similarities = np.zeros((0, kinds))
        self._places = np.zeros((0, 2))
        self._error: asyncio.Future[PipelineError] = asyncio.get_running_loop().create_future()
        self._maps: asyncio.Future[bytes] | None = None
        self.changed = asyncio.Event()
        self.device_ns = 0
        self._on_batch = on_batch

    @property
    def num_embedded(self) -> int:
        """Samples that were compared."""
        return len(self._similarities)

    def known(self) -> Samples:
        """Those that were compared."""
        num = self.num_embedded
        if not num:
            return Samples.none(self._kinds)
        histograms = np.concatenate(self._histograms)[:num]
        return Samples.none(self._kinds).with_more(np.array(self._times[:num]), self._similarities, histograms)

    def place(self, start: float, end: float) -> tuple[float, float]:
        """Where what was searched for is between two times: from the left and from the top, in 0..1.

        The middle of the more alike half of the samples there; of the frame, where there is none.
        """
        times = np.array(self._times[: self.num_embedded])
        within = np.flatnonzero((times >= start) & (times < end))
        if not len(within):
            return 0.5, 0.5
        alike = self._similarities[within].mean(1)
        best = within[alike >= np.median(alike)]
        left, top = np.median(self._places[best], axis=0)
        return float(left), float(top)

    async def embed(self, query: WorkerQuery, slot: int, generation: int, times: tuple[float, ...]) -> None:
        """Take a batch of frames with these times, and let the worker compare it.

        Raises:
            ReaderLost: the reader says what can't be.
        """
        num_frames = len(times)
        if not (0 < num_frames <= self._batch_frames and np.isfinite(times).all()):
            query.samples.abandon(slot, generation)
            raise ReaderLost("the film's reader tells what can't be")
        begin = self._batch_frames * self._side * self._side * 3
        with query.samples.ring.payload(slot) as payload:
            part = bytes(payload[begin : begin + num_frames * HISTOGRAM_BYTES])
        self._times += times
        self._histograms.append(np.nan_to_num(np.frombuffer(part, np.float32).reshape(num_frames, -1)))
        query.embed(slot, generation, num_frames)

    async def maps(self, query: WorkerQuery, message: MapFrames) -> bytes:
        """Let the worker make maps of a run of frames, and take them; one run at a time."""
        self._maps = asyncio.get_running_loop().create_future()
        query.map(message)
        return await self._maps

    async def settled(self) -> None:
        """Wait until all that was taken is compared."""
        while self.num_embedded < len(self._times):
            self.changed.clear()
            await self.changed.wait()

    async def guarded(self, work: Awaitable[ResultT]) -> ResultT:
        """Await `work`, but no longer than the worker can go on.

        Cancellation: passes through to `work`.

        Raises:
            PipelineError: it can't.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, self._error), return_when=asyncio.FIRST_COMPLETED)
            if self._error.done():
                raise self._error.result()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))

    def on_embedded(self, embedded: Embedded) -> None:
        """See `QueryEvents`."""
        similarities = np.array(embedded.similarities).T
        self._similarities = np.concatenate((self._similarities[: embedded.first], similarities))
        self._places = np.concatenate((self._places[: embedded.first], np.array(embedded.places).T))
        self.device_ns += embedded.device_ns
        self._on_batch(embedded.device_ns)
        self.changed.set()

    def on_mapped(self, mapped: Mapped, maps: memoryview) -> None:
        """See `QueryEvents`."""
        self.device_ns += mapped.device_ns
        self._on_batch(mapped.device_ns)
        if self._maps is not None and not self._maps.done():
            self._maps.set_result(bytes(maps))

    def on_failed(self, error: PipelineError) -> None:
        """See `QueryEvents`."""
        if not self._error.done():
            self._error.set_result(error)


def batch_frames(device: str, model: EmbeddingModel) -> int:
    """Frames that are compared together: as few as let a stream's chunk not wait for long."""
    if not device.startswith("cpu"):
        return MAX_BATCH_FRAMES
    return 8 if model.clip is None else 1
