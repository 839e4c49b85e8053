"""A session's latents in order, and again from an earlier one when a server has lost them.

Runs on the event loop. A file or an array is simply read again. An iterator's latents are kept, as copies, until all
frames that need them have arrived.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from framehaul.formats import LatentDtype
from framehaul_client.core.latents import LatentArray, LatentFormat, Layout, as_block, latent_format
from framehaul_client.errors import InvalidLatents
from framehaul_client.source.arrays import ClipReader, as_array
from framehaul_client.source.iterators import Latents, LatentSource, open_source
from framehaul_client.source.latents_file import LatentsFile

_RANK_OF_CLIP: Final = 4


class LatentHistory:
    """Owner of the source; `next` from one task at a time."""

    def __init__(self, latents: Latents, dtype: LatentDtype | str | None, layout: Layout | None = None) -> None:
        """Begin with the first of `latents`; `dtype` and `layout` are needed where arrays can't tell them.

        Raises:
            TypeError: they can't be iterated over.
        """
        self._dtype = None if dtype is None else LatentDtype(dtype)
        self._clips = ClipReader(layout)
        self._read_from = _reader(latents)
        self._source: LatentSource = open_source(latents if self._read_from is None else self._read_from(0))
        self._kept: deque[LatentArray] = deque()
        """Blocks `[T, C, h, w]`: an iterator's that may be needed again; of a file or an array only the last."""
        self._first_kept = 0
        self._num_pulled = 0
        self._pull: asyncio.Task[LatentArray | None] | None = None
        """Survives the cancellation of `next`, since cancelling a generator would end it."""
        self._format: LatentFormat | None = None
        self.position = 0
        """Index of the latent that comes next."""

    @property
    def latents(self) -> LatentFormat:
        """The format of all latents; known after the first `next`."""
        if self._format is None:
            raise InvalidLatents("no latents: a session needs at least one")
        return self._format

    async def next(self) -> LatentArray | None:
        """Return the next latents `[T, C, h, w]`, or None after the last.

        Raises:
            InvalidLatents: their format differs from the first one's.

        Cancellation: no latent is lost.
        """
        if self.position < self._num_pulled:
            block = self._from_kept()
        else:
            pulled = await self._pull_next()
            if pulled is None:
                return None
            block = pulled
        self.position += len(block)
        return block

    async def rewind(self, index: int) -> None:
        """Go to latent `index`, which must not be forgotten; nobody may be in `next`.

        Raises:
            InvalidLatents: there are no such latents, or no more.
        """
        if self._read_from is None:
            while self._num_pulled < index and await self._pull_next() is not None:
                self.forget(index)  # an iterator's are read up to there
        if not self._first_kept <= index <= self._num_pulled:
            if self._read_from is None:
                raise InvalidLatents(f"latent {index}: only {self._first_kept}..{self._num_pulled} can be sent again")
            await self._stop_pulling()
            await self._source.aclose()
            self._source = open_source(self._read_from(index))
            self._kept.clear()
            self._first_kept = self._num_pulled = index
        self.position = index

    def forget(self, before: int) -> None:
        """Let go of latents below this index."""
        while self._read_from is None and self._kept and self._first_kept + len(self._kept[0]) <= before:
            self._first_kept += len(self._kept.popleft())

    async def aclose(self) -> None:
        """Close the iterator, if it is a generator; closing twice is fine."""
        await self._stop_pulling()
        await self._source.aclose()
        self._kept.clear()

    def _from_kept(self) -> LatentArray:
        start, blocks = self._first_kept, iter(self._kept)
        # What was pulled and not forgotten is kept.
        while self.position >= start + len(block := next(blocks)):
            start += len(block)
        return block[self.position - start :]

    async def _pull_next(self) -> LatentArray | None:
        if self._pull is None:
            self._pull = asyncio.create_task(self._source.next(), name="framehaul pull")
        pull = self._pull
        await asyncio.wait([pull])
        self._pull = None
        raw = as_array(pull.result())
        if raw is None:
            return None
        if isinstance(raw, np.ndarray) and raw.ndim >= _RANK_OF_CLIP:
            raw = self._clips.read(raw)
        if self._format is None:
            self._format = latent_format(raw, self._dtype)
        block = as_block(raw, self._format, self.position)
        if self._read_from is None:
            block = block.copy()  # the owner may reuse the memory
        else:
            self._kept.clear()
            self._first_kept = self._num_pulled
        self._kept.append(block)
        self._num_pulled += len(block)
        return block

    async def _stop_pulling(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None:
            pull.cancel()
            await asyncio.gather(pull, return_exceptions=True)


def _reader(latents: Any) -> Callable[[int], Iterator[LatentArray]] | None:
    """Reads latents `[C, h, w]` from an index on; None of those that can't be read any number of times."""
    if isinstance(latents, np.ndarray) and latents.ndim == _RANK_OF_CLIP:
        return lambda index: iter(latents[index:])
    return latents.read_from if isinstance(latents, LatentsFile) else None
