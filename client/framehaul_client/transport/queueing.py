"""The first answers to a session's opening: positions in the server's queue, if it has to wait, then `Opened`.

Pure but for the clock; runs on the event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.core.statistics import SessionStatistics
from framehaul_client.errors import ProtocolError
from framehaul_client.transport.patience import answer_within

LOOK_S: Final = 5.0
"""Between looks for a place elsewhere; a server says every 15 s how the queue stands."""

_LOG: Final = logging.getLogger(__name__)


class QueuePosition:
    """Passes on each position and counts the time."""

    def __init__(self, statistics: SessionStatistics, on_queued: Callable[[int], None] | None) -> None:
        """Call `on_queued` with each position, 1 is next; the time goes to `statistics`."""
        self._statistics = statistics
        self._on_queued = on_queued
        self._since_s = self._heard_s = 0.0
        self.position: int | None = None
        """None while the session doesn't wait."""

    def moved(self, position: int) -> None:
        """Take note of a position; one that was told before isn't passed on."""
        self._heard_s = time.perf_counter()
        if position == self.position:
            return
        if self.position is None:
            self._since_s = self._heard_s
        self.position = position
        _LOG.debug("queued at position %d", position)
        if self._on_queued is not None:
            self._on_queued(position)

    def served(self) -> None:
        """Take note that the wait is over, since the server says so."""
        self._heard_s = time.perf_counter()

    def left(self) -> None:
        """Take note that the session no longer waits; the time counts up to the server's last word."""
        if self.position is not None:
            self._statistics.queued_s += self._heard_s - self._since_s
            self.position = None


class Responses(Protocol):
    """What this needs of an `Rpc`."""

    async def receive(self) -> wire.Envelope[pb.StreamResponse] | None:
        """Return the next message, or None when the server ended the call well."""


async def receive_opened(
    rpc: Responses, queue: QueuePosition, stall_timeout_s: float, look_elsewhere: Callable[[], Awaitable[None]]
) -> wire.Envelope[pb.StreamResponse]:
    """Wait for `Opened`, for as long as the queue takes, but no longer than `stall_timeout_s` for each word of it.

    Now and then, after such a word, `look_elsewhere` may end that by an error of its own.

    Cancellation: cancels the call.

    Raises:
        FramehaulError: the call failed, the server is silent or said something else.
    """
    looked_s = time.perf_counter()
    try:
        while True:
            async with answer_within(stall_timeout_s):
                answer = await rpc.receive()
            if answer is None or not answer.header.HasField("queued"):
                queue.served()
                break
            queue.moved(answer.header.queued.position)
            if time.perf_counter() - looked_s >= LOOK_S:
                await look_elsewhere()
                looked_s = time.perf_counter()
    finally:
        queue.left()
    if answer is None or not answer.header.HasField("opened"):
        raise ProtocolError("the server's first message, but for places in its queue, isn't Opened")
    return answer
