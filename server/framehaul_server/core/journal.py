"""What it takes to decode a session's next frame after its worker died: latents, and how they were cut into chunks.

Pure. Where a decoder's memory is finite, no more latents are kept than it reaches back from the last published chunk,
which is decoded again and compared; else all of them, up to a limit. Latents that no worker has taken over yet are kept
in any case, and don't count.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from framehaul_pipeline.errors import ReplayDiffers
from framehaul_pipeline.link.messages import Published
from framehaul_pipeline.spec import DecoderSpec

_MAX_REPLAY_CHUNKS: Final = 10_000
"""They travel in one message to the worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a worker's session begins: with `latents` from `first_latent` on, first in `chunks` of these sizes."""

    first_latent: int
    chunks: tuple[int, ...]
    latents: tuple[memoryview, ...]


class Journal:
    """One session's latents and published chunks."""

    def __init__(self, spec: DecoderSpec, first_latent: int, *, max_bytes: int) -> None:
        """Start a session that begins at `first_latent`, and keep `max_bytes` of what workers have taken over."""
        self._spec = spec
        self._start = first_latent
        self._max_bytes = max_bytes
        self._first_latent = first_latent
        """Of those that are kept."""
        self._latents: deque[memoryview] = deque()
        self._published: deque[Published] = deque()
        self._replay_from = first_latent
        """Where the present worker's session began."""
        self._whole = True
        """Nothing that is needed was dropped for lack of room."""

    @property
    def num_latents(self) -> int:
        """How many are kept."""
        return len(self._latents)

    def keep(self, latent: memoryview) -> None:
        """Keep the next latent."""
        if self._whole:
            self._latents.append(latent)

    def note_fed(self, num_fed: int) -> None:
        """Note that a worker took over all latents below this one: from now on only the journal keeps them."""
        if self._whole and (num_fed - self._first_latent) * len(self._latents[0]) > self._max_bytes:
            self._whole = False
            self.clear()

    def note_published(self, published: Published) -> None:
        """Note a published chunk, or compare it with what was noted when it was published first.

        Raises:
            ReplayDiffers: frames differ from those of the first time.
        """
        if not self._whole:
            return
        if self._published and published.first_latent < self._published[-1].next_latent:
            known = next(known for known in self._published if known.first_latent == published.first_latent)
            self._compare(known, published)
            return
        self._published.append(published)
        self._trim()

    def replay(self) -> Replay | None:
        """How a new worker gets to the frame after the last published one; None when that isn't possible any more."""
        chunks = tuple(size for published in self._published for size in published.chunks if size)
        if not self._whole or len(chunks) > _MAX_REPLAY_CHUNKS:
            return None
        self._replay_from = self._first_latent
        return Replay(first_latent=self._first_latent, chunks=chunks, latents=tuple(self._latents))

    def clear(self) -> None:
        """Let go of everything."""
        self._latents.clear()
        self._published.clear()

    def _compare(self, known: Published, again: Published) -> None:
        history = self._spec.history_latents
        settled = self._replay_from == self._start or (
            history is not None and known.first_latent >= self._replay_from + history
        )
        if settled and (known.first_frame, known.crc32c) != (again.first_frame, again.crc32c):
            raise ReplayDiffers(
                f"frames {again.first_frame}..{again.next_frame - 1}: decoded again after a worker's death, they "
                "differ from the first time"
            )

    def _trim(self) -> None:
        history = self._spec.history_latents
        if history is None:
            return
        needed = self._published[-1].first_latent - history
        while self._published[0].next_latent <= needed:
            oldest = self._published.popleft()
            for _ in range(sum(oldest.chunks)):
                self._latents.popleft()
            self._first_latent = oldest.next_latent
