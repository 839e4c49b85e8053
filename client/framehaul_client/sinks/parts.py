"""Parts of a clip that come side by side: each is encoded as it comes, and the file has them in order."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import av
from av.video.stream import VideoStream

from framehaul_client.core.frames import Pixels
from framehaul_client.sinks.segments import SegmentEncoders

MOST_SPOOLED_BYTES: Final = 256 << 20
"""Of packets that wait for those of earlier parts."""


class Parts:
    """Owner of the parts' encoders; one thread gives it frames and takes packets."""

    def __init__(self, ends: Sequence[int], encoders: Sequence[SegmentEncoders]) -> None:
        """Begin with no frames.

        Args:
            ends: of each part, the index after its last frame.
            encoders: of each part.
        """
        self._ends = ends
        self._encoders = encoders
        self._next = [0, *ends[:-1]]  # of each part, the frame that comes next
        self._spooled: list[deque[av.Packet[VideoStream]]] = [deque() for _ in ends]
        self._first = 0  # the part whose packets are given at once
        self.spooled_bytes = 0
        """Packets that wait for those of earlier parts."""

    def has_room(self, index: int) -> bool:
        """Whether a frame may be given now; on any thread. Frames of the first part that isn't whole always may."""
        return self._part(index) <= self._first or self.spooled_bytes < MOST_SPOOLED_BYTES

    def put(self, index: int, pixels: Pixels) -> Iterator[av.Packet[VideoStream]]:
        """Give a frame, the next one of its part; gives the packets that are ready and whose turn it is.

        Raises:
            Exception: what an encoder raised.
        """
        part = self._part(index)
        self._next[part] = index + 1
        packets = self._encoders[part].put(index, pixels)
        if part == self._first:
            yield from packets
            yield from self._go_on()
            return
        for packet in packets:
            self.spooled_bytes += packet.size
            self._spooled[part].append(packet)

    def finish(self) -> Iterator[av.Packet[VideoStream]]:
        """Give all packets that are missing yet, of parts that lack frames too; twice is fine.

        Raises:
            Exception: what an encoder raised.
        """
        for part in range(self._first, len(self._ends)):
            yield from self._unspool(part)
            yield from self._encoders[part].finish()
            if self._next[part] < self._ends[part]:  # no frame after a gap
                break

    def close(self) -> None:
        """Let the encoders end, and forget their packets; twice is fine."""
        for encoders in self._encoders:
            encoders.close()
        for packets in self._spooled:
            packets.clear()

    def _part(self, index: int) -> int:
        return min(bisect_right(self._ends, index), len(self._ends) - 1)

    def _go_on(self) -> Iterator[av.Packet[VideoStream]]:
        """Give what later parts have, once those before are whole."""
        while self._first < len(self._ends) - 1 and self._next[self._first] >= self._ends[self._first]:
            yield from self._encoders[self._first].finish()
            self._first += 1
            yield from self._unspool(self._first)

    def _unspool(self, part: int) -> Iterator[av.Packet[VideoStream]]:
        packets = self._spooled[part]
        while packets:
            packet = packets.popleft()
            self.spooled_bytes -= packet.size
            yield packet
