"""How long a server may keep its client waiting without news. Runs on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from framehaul_client.errors import ConnectionLost, FramehaulError, ServerUnavailable


@contextlib.asynccontextmanager
async def answer_within(limit_s: float) -> AsyncIterator[None]:
    """Limit the wait for an answer to a session's opening, or for a word from the queue.

    Raises:
        ServerUnavailable: there was none in time.
    """
    silent = ServerUnavailable(f"the server was silent for {limit_s:g} s (--stall-timeout)")
    async with _raising(asyncio.timeout(limit_s), silent):
        yield


class Patience:
    """Gives the server its time anew with each piece of news, while it is its turn.

    It is the server's turn while the caller waits for frames and no latent of the caller's own is waited for. News is
    a message of frames that came, or one of latents that the server asked for and took. Nothing else is: empty
    messages, or grants that let nothing go, can be sent for ever.
    """

    def __init__(self, limit_s: float) -> None:
        """Allow `limit_s` without news."""
        self._limit_s = limit_s
        self._timeout: asyncio.Timeout | None = None
        self._awaits_frames = False
        self._owes_latents = False

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Cancel what runs inside when the time is over.

        Raises:
            ConnectionLost: then.
        """
        silent = f"the server sent no frame and took no latent for {self._limit_s:g} s (--stall-timeout)"
        try:
            async with _raising(asyncio.timeout(None), ConnectionLost(silent)) as self._timeout:
                self.news()
                yield
        finally:
            self._timeout = None

    @contextlib.contextmanager
    def awaiting_frames(self) -> Iterator[None]:
        """The caller waits for frames."""
        self._awaits_frames = True
        self.news()
        try:
            yield
        finally:
            self._awaits_frames = False
            self.news()

    @contextlib.contextmanager
    def owing_latents(self) -> Iterator[None]:
        """The server waits for latents that the caller's iterator still has to make."""
        self._owes_latents = True
        self.news()
        try:
            yield
        finally:
            self._owes_latents = False
            self.news()

    def news(self) -> None:
        """Begin the time anew; it stands still while it isn't the server's turn."""
        if self._timeout is None or self._timeout.expired():
            return
        servers_turn = self._awaits_frames and not self._owes_latents
        self._timeout.reschedule(asyncio.get_running_loop().time() + self._limit_s if servers_turn else None)


@contextlib.asynccontextmanager
async def _raising(timeout: asyncio.Timeout, error: FramehaulError) -> AsyncIterator[asyncio.Timeout]:
    """Raise `error` for this `timeout`, and let through a TimeoutError of anybody else's."""
    try:
        async with timeout:
            yield timeout
    except TimeoutError:
        if timeout.expired():
            raise error from None
        raise
