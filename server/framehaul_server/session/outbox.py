"""Responses that wait for their turn on the wire. Runs on the event loop; the session's sender is its only reader.

Bounded by its writers: frames by the session's window, the rest by a handful of control messages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A serialized response."""

    message: bytes
    first_frame: int = 0
    num_frames: int = 0
    last: bool = False


class Outbox:
    """A queue with two lanes: urgent responses pass the others, and each lane keeps its order."""

    def __init__(self) -> None:
        """Start empty."""
        self._urgent: deque[Outgoing] = deque()
        self._ordinary: deque[Outgoing] = deque()
        self._filled = asyncio.Event()

    def put(self, outgoing: Outgoing, *, urgent: bool = False) -> None:
        """Queue a response; never blocks."""
        (self._urgent if urgent else self._ordinary).append(outgoing)
        self._filled.set()

    def put_back(self, sent: Iterable[Outgoing]) -> None:
        """Queue responses that were sent once before all that wait; urgent ones were for another connection."""
        self._urgent.clear()
        self._ordinary.extendleft(reversed(list(sent)))
        self._filled.set()

    async def get(self) -> Outgoing:
        """Take the next response.

        Cancellation: nothing is taken.
        """
        while not (self._urgent or self._ordinary):
            self._filled.clear()
            await self._filled.wait()
        return (self._urgent or self._ordinary).popleft()

    def clear(self) -> None:
        """Drop what waits."""
        self._urgent.clear()
        self._ordinary.clear()

    @property
    def num_frames(self) -> int:
        """Frames that wait."""
        return sum(outgoing.num_frames for outgoing in self._ordinary)
