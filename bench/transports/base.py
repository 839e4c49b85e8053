"""What every transport's ends share: where payloads come from, what a client asks for, and how it is metered."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

HOST: Final = "127.0.0.1"
REQUEST: Final = struct.Struct("<QQ")
"""Bytes of a message, number of messages."""
_SOURCE_BYTES: Final = 96 << 20
"""Payloads are slices of this much memory, so that they aren't always in the processor's cache."""

Announce = Callable[[str], None]
"""Tells the driver the address that the server listens on."""


class Source:
    """Memory that messages are sent from, as a ring of frames would be."""

    def __init__(self) -> None:
        """Touch every page."""
        self._memory = mmap.mmap(-1, _SOURCE_BYTES)
        pattern = bytes(range(256)) * 4096
        for start in range(0, _SOURCE_BYTES, len(pattern)):
            self._memory[start : start + len(pattern)] = pattern

    def payloads(self, num_bytes: int, count: int) -> Iterator[memoryview]:
        """`count` views of `num_bytes`."""
        view = memoryview(self._memory)
        for index in range(count):
            start = index * num_bytes % (_SOURCE_BYTES - num_bytes + 1)
            yield view[start : start + num_bytes]


@dataclass(slots=True)
class Meter:
    """Counts received messages; time and processor time run from the first one's arrival to the last one's."""

    num_bytes: int = 0
    _timed_bytes: int = 0
    _started_s: float = 0.0
    _ended_s: float = 0.0
    _cpu_started_s: float = 0.0
    _cpu_ended_s: float = 0.0

    def take(self, payload: memoryview | bytes | bytearray) -> None:
        """Count a message; touches its first and last byte."""
        _ = payload[0] + payload[-1]
        self._ended_s, self._cpu_ended_s = time.perf_counter(), time.process_time()
        if self.num_bytes == 0:
            self._started_s, self._cpu_started_s = self._ended_s, self._cpu_ended_s
        else:
            self._timed_bytes += len(payload)
        self.num_bytes += len(payload)

    def figures(self) -> dict[str, float]:
        """GB/s, and this process's CPU seconds per GB (1 GB = 10^9 bytes)."""
        timed_gb = self._timed_bytes / 1e9
        return {
            "gb_per_s": timed_gb / (self._ended_s - self._started_s),
            "client_cpu_s_per_gb": (self._cpu_ended_s - self._cpu_started_s) / timed_gb,
            "bytes": float(self.num_bytes),
        }
