"""The worker's part in searching films: batches of frames through the network, between chunks of streams.

`Worker` calls it; the queue and the list of queries are guarded by its lock, what they hold by the launch thread alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from framehaul_pipeline.device.streams import Device, Event
from framehaul_pipeline.embedding.clip import ClipEmbedder
from framehaul_pipeline.embedding.embedder import Embedder, Query
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.link.messages import (
    CloseQuery,
    Embedded,
    EmbedFrames,
    OpenQuery,
    QueryFailed,
    QueryRefused,
    SamplesReturned,
    ToServer,
)
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.batches import Batch, Batches

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Open:
    opening: OpenQuery
    query: Query | None = None
    """Once its pictures and its text were looked at."""


@dataclass(slots=True, eq=False)
class BatchJob:
    """Put a batch on the device."""

    batch: Batch
    opened: _Open = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class BatchInFlight:
    """A batch on the device."""

    batch: Batch
    first: int
    similarities: Tensor | None
    """`[K + 2, N]`, as `Query.compare` gives them; None: this was the query."""
    begun: Event
    done: Event


class Highlights:
    """Queries and their batches."""

    def __init__(
        self, device: Device, ring: Ring, embedder: Embedder | ClipEmbedder, *, send: Callable[[ToServer], None]
    ) -> None:
        """Take samples from `ring`."""
        self._device, self._ring, self._embedder, self._send = device, ring, embedder, send
        self._memory = device.attach(ring)
        self._stream = device.stream()
        self._open: dict[int, _Open] = {}
        self.batches = Batches()

    def warm_up(self) -> None:
        """Once, so that the first batch doesn't wait for memory and the choice of kernels."""
        side = self._embedder.model.side
        frames = torch.zeros((1, side, side, 3), dtype=torch.uint8, device=self._device.torch_device)

        def once() -> None:
            self._embedder.cells(frames)

        self._stream.run(once)
        self._stream.record().synchronize()

    # Under the worker's lock

    def apply(self, message: OpenQuery | EmbedFrames | CloseQuery) -> None:
        """Apply a message of the server."""
        match message:
            case OpenQuery():
                self._open[message.query] = _Open(message)
                slot, generation = message.slot, message.generation
                self.batches.add(Batch(message.query, slot, generation, message.num_pictures, is_query=True))
            case EmbedFrames():
                batch = Batch(message.query, message.slot, message.generation, message.num_frames)
                if message.query in self._open:
                    self.batches.add(batch)
                else:
                    self._give_back(batch)
            case CloseQuery():
                self._open.pop(message.query, None)
                for batch in self.batches.close(message.query):
                    self._give_back(batch)

    def take(self, *, chunks_first: bool) -> BatchJob | None:
        """The next batch for the device."""
        batch = self.batches.take(chunks_first=chunks_first)
        return None if batch is None else BatchJob(batch, self._open[batch.query])

    def finish(self, batch: Batch) -> None:
        """A batch is done, or has failed."""
        self.batches.finish()
        self._give_back(batch)

    # Launch thread

    def launch(self, job: BatchJob) -> BatchInFlight | None:
        """Put a batch on the device; None if that failed, which ends its query.

        Raises:
            RuntimeError: the device no longer works.
        """
        try:
            return self._launch(job)
        except InvalidInput as error:
            self._send(
                QueryRefused(query=job.batch.query, field=error.field, value=str(error.value), allowed=error.allowed)
            )
            return None
        except Exception as error:
            overloaded = isinstance(error, torch.OutOfMemoryError)
            _log.exception("query failed query=%d overloaded=%s", job.batch.query, overloaded)
            self._stream.record().synchronize()
            if not self._device.healthy():
                raise
            reason = "the device has no memory for it" if overloaded else "the network failed on this film"
            self._send(QueryFailed(query=job.batch.query, reason=reason, overloaded=overloaded))
            return None

    def close(self) -> None:
        """Let go of the ring, once nothing is in flight."""
        self._stream.record().synchronize()
        self._device.detach(self._ring)
        del self._memory

    # Completion thread

    def complete(self, flight: BatchInFlight) -> None:
        """Wait for a batch and tell the server.

        Raises:
            RuntimeError: the device failed.
        """
        flight.done.synchronize()
        if flight.similarities is not None:
            *alike, left, top = map(tuple, flight.similarities.tolist())
            self._send(
                Embedded(
                    query=flight.batch.query,
                    first=flight.first,
                    similarities=tuple(alike),
                    places=(left, top),
                    device_ns=flight.done.ns_after(flight.begun),
                )
            )

    def _launch(self, job: BatchJob) -> BatchInFlight:
        batch = job.batch
        found: list[tuple[int, Tensor]] = []
        begun = self._stream.record(timed=True)
        if batch.is_query:
            self._stream.run(lambda: self._look_at_query(job.opened))
        else:
            self._stream.run(lambda: found.append(self._compare(job)))
        first, similarities = found[0] if found else (0, None)
        return BatchInFlight(batch, first, similarities, begun, self._stream.record(timed=True))

    def _look_at_query(self, opened: _Open) -> None:
        opening = opened.opening
        at = self._ring.payload_offset(opening.slot)
        features = []
        for _ in range(opening.num_pictures):
            for size in opening.sizes:
                features.append(self._embedder.picture(self._uploaded(at, (size, size, 3))))
                at += size * size * 3
        pictures = torch.stack(features).view(opening.num_pictures, len(opening.sizes), -1) if features else None
        text = None
        if opening.text:
            assert isinstance(self._embedder, ClipEmbedder), "others are asked for no text"
            text = self._embedder.text(opening.text)
        opened.query = Query(pictures, text)

    def _compare(self, job: BatchJob) -> tuple[int, Tensor]:
        assert job.opened.query is not None, "it came first"
        side = self._embedder.model.side
        frames = self._uploaded(self._ring.payload_offset(job.batch.slot), (job.batch.num_frames, side, side, 3))
        return job.opened.query.compare(self._embedder.cells(frames))

    def _uploaded(self, at: int, shape: tuple[int, ...]) -> Tensor:
        num_bytes = 1
        for size in shape:
            num_bytes *= size
        return self._memory[at : at + num_bytes].view(shape).to(self._device.torch_device, non_blocking=True)

    def _give_back(self, batch: Batch) -> None:
        self._send(SamplesReturned(slot=batch.slot, generation=batch.generation))
