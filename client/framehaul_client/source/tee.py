"""One stream of latents for several sessions: each gets all of them, at its own pace. Runs on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable
from typing import Final

from framehaul_client.core.latents import LatentArray
from framehaul_client.errors import Refused

MAX_WAITING_BYTES: Final = 256 << 20
"""That the slowest reader hasn't taken: 1,300 latents of 16 channels for 480x832."""
_PATIENCE_S: Final = 30.0
"""Less than after which servers end a session that sends no latent, without a word of the other one."""


class Tee:
    """Reads a stream once. Whoever is ahead by `max_bytes` waits for the slowest, as long as that one goes on."""

    def __init__(self, latents: AsyncIterable[LatentArray], count: int, max_bytes: int = MAX_WAITING_BYTES) -> None:
        """Make `count` readers of `latents`."""
        self._source = aiter(latents)
        self._max_bytes = max_bytes
        self._pull: asyncio.Task[None] | None = None
        """Whose reader is cancelled goes on: it is the others' as well."""
        self._end: Exception | None = None
        """What the stream ended with."""
        self._taken = asyncio.Event()
        """Pulsed when a reader took a latent, or left."""
        self.readers = [TeeReader(self) for _ in range(count)]
        self._open = list(self.readers)

    async def next(self, own: deque[LatentArray]) -> LatentArray:
        """Take the next latent of a reader, whose own ones are these.

        Raises:
            StopAsyncIteration: there are no more.
            Refused: the slowest reader took none for too long.
            FramehaulError: the stream failed.

        Cancellation: nothing is lost.
        """
        while not own:
            if self._end is not None:
                raise self._end
            if self._pull is None:
                await self._room()
                self._pull = self._pull or asyncio.create_task(self._read(), name="framehaul tee")
            await asyncio.wait([self._pull])
        self._taken.set()
        return own.popleft()

    async def leave(self, reader: TeeReader) -> None:
        """Nobody waits for this reader any more; with the last one the stream is closed. Twice is fine.

        Cancellation: the reader has left.
        """
        if reader not in self._open:
            return
        self._open.remove(reader)
        self._taken.set()
        if not self._open and self._pull is not None:
            self._pull.cancel()
            await asyncio.wait([self._pull])

    async def _room(self) -> None:
        while any(reader.waiting_bytes >= self._max_bytes for reader in self._open):
            self._taken.clear()
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._taken.wait()
            except TimeoutError:
                raise Refused(
                    f"{self._max_bytes >> 20} MiB of latents wait for a session that took none for {_PATIENCE_S:g} s. "
                    "If it waits for a place, which may be the other's, decode the models one after the other"
                ) from None

    async def _read(self) -> None:
        try:
            latent = await anext(self._source)
        except (StopAsyncIteration, Exception) as error:
            self._end = error
        else:
            for reader in self._open:
                reader.waiting.append(latent)
        finally:
            self._pull = None


class TeeReader:
    """An iterator over all latents."""

    def __init__(self, tee: Tee) -> None:
        """Read from `tee`."""
        self._tee = tee
        self.waiting: deque[LatentArray] = deque()
        """Latents that were read and not taken."""

    def __aiter__(self) -> TeeReader:
        """Return the reader."""
        return self

    @property
    def waiting_bytes(self) -> int:
        """Of these; all latents of a stream are of one size."""
        return len(self.waiting) * self.waiting[0].nbytes if self.waiting else 0

    async def __anext__(self) -> LatentArray:
        """Take the next latent; see `Tee.next`."""
        return await self._tee.next(self.waiting)

    async def aclose(self) -> None:
        """Leave; see `Tee.leave`."""
        await self._tee.leave(self)
