"""Pulls latents from the caller's iterator: an async one on the event loop, a plain one on its own thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from framehaul_client.core.latents import LatentArray
from framehaul_client.errors import InvalidLatents

Latents = AsyncIterable[LatentArray] | Iterable[LatentArray]


class LatentSource(Protocol):
    """Where a session's latents come from."""

    async def next(self) -> LatentArray | None:
        """Return the next latents, or None after the last.

        Cancellation: an async iterator is cancelled; a plain one finishes its current item.
        """

    async def aclose(self) -> None:
        """Close the iterator, if it is a generator; closing twice is fine."""


def open_source(latents: Latents) -> LatentSource:
    """Return a source that owns an iterator of `latents`.

    Raises:
        TypeError: it can't be iterated over.
    """
    if isinstance(latents, AsyncIterable):
        return _AsyncSource(aiter(latents))
    return _ThreadSource(iter(latents))


class _AsyncSource:
    def __init__(self, iterator: AsyncIterator[LatentArray]) -> None:
        self._iterator = iterator

    async def next(self) -> LatentArray | None:
        try:
            return _present(await anext(self._iterator))
        except StopAsyncIteration:
            return None

    async def aclose(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()


class _ThreadSource:
    """Keeps a plain iterator, which may block on a disk or compute, off the event loop.

    One thread runs it from first to last, so the iterator may hold what belongs to a thread.
    """

    def __init__(self, iterator: Iterator[LatentArray]) -> None:
        self._iterator = iterator
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="framehaul-latents")
        self._pull: Future[LatentArray | None] | None = None

    async def next(self) -> LatentArray | None:
        self._pull = self._thread.submit(self._next)
        return await asyncio.wrap_future(self._pull)

    async def aclose(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None and not pull.done():
            # It can't be interrupted and may take long, so the generator is closed once it returns.
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)
            return
        if pull is not None:
            await asyncio.wrap_future(self._thread.submit(self._close))
        self._thread.shutdown()

    def _next(self) -> LatentArray | None:
        try:
            return _present(next(self._iterator))
        except StopIteration:
            return None

    def _close(self) -> Any:
        close = getattr(self._iterator, "close", None)
        return close() if close is not None else None


def _present(latents: LatentArray | None) -> LatentArray:
    if latents is None:
        raise InvalidLatents("the iterator of latents yielded None: must be numpy arrays")
    return latents
