"""When a batch of a film's frames is next on the device: pure, run by the worker under its lock.

Streams come first: a viewer waits for each of their chunks. A batch runs when no chunk can, or after so many chunks.
There is one on the device at a time, so that a chunk never waits for more. Earlier queries come first, whatever others
have ready: films finish one after the other, and not all late.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

MOST_CHUNKS_BEFORE: Final = 4
"""That go before a batch that waits."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames of one film, or the pictures that are searched for in it, in a sample slot."""

    query: int
    slot: int
    generation: int
    num_frames: int
    is_query: bool = False
    """They are what is searched for."""


class Batches:
    """Batches that wait, and whether one is on the device."""

    def __init__(self) -> None:
        """Start with none."""
        self._waiting: dict[int, deque[Batch]] = {}
        self._at_work = False
        self._num_chunks = 0
        """Launched since a batch has waited."""

    def add(self, batch: Batch) -> None:
        """Let a batch wait behind those of its query."""
        self._waiting.setdefault(batch.query, deque()).append(batch)

    def chunk_begins(self) -> None:
        """A stream's chunk was launched."""
        self._num_chunks += bool(self._waiting)

    def take(self, *, chunks_first: bool) -> Batch | None:
        """The next batch for the device; None when none may begin.

        Args:
            chunks_first: a stream may have a chunk to decode, so only a batch that has let enough of them by begins.
        """
        if self._at_work or not self._waiting or (chunks_first and self._num_chunks < MOST_CHUNKS_BEFORE):
            return None
        query = min(self._waiting)
        batch = self._waiting[query].popleft()
        if not self._waiting[query]:
            del self._waiting[query]
        self._at_work, self._num_chunks = True, 0
        return batch

    def finish(self) -> None:
        """The batch that was taken is done."""
        self._at_work = False

    def close(self, query: int) -> list[Batch]:
        """Take back what waits of a query."""
        return list(self._waiting.pop(query, ()))
