"""The host's memory, as far as it is the worker's: how much there is for it, and what its allocator keeps of it.

glibc's allocator is told to keep what is freed (`supervision/process.py`): fresh pages for each layer of a decode on
the CPU would cost up to half of its time. So it keeps a chunk's peak, and gaps between blocks of other sizes, until it
is told to give them back (malloc_trim(3)). For the worker process alone.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Final

SLACK_BYTES: Final = 256 << 20
"""What else may grow beside sessions: a library's primitives for new shapes, the interpreter."""
FRAGMENTATION: Final = 2
"""How many times what sessions may use they take from the host: gaps of the allocator's; 1.8 is the most seen."""


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """What this process may still take: of the host, and of the container it is in (cgroup v2)."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    assert found is not None, "Linux tells since 3.14"
    available = int(found[1]) << 10
    try:
        most, used = (cgroup / "memory.max").read_text(), (cgroup / "memory.current").read_text()
    except FileNotFoundError:
        return available
    return available if most.strip() == "max" else min(available, max(0, int(most) - int(used)))


def own_bytes() -> int:
    """Memory of this process that it shares with nobody, resident now."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def trim() -> None:
    """Give back all that is free, gaps included; nothing where the C library isn't glibc, and keeps nothing."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


class KeptMemory:
    """Holds what the allocator keeps within what sessions may use."""

    def __init__(self) -> None:
        """Start from what the process holds now, once it has given back what it doesn't need."""
        trim()
        self._start_bytes = own_bytes()

    def hold(self, session_bytes: int) -> None:
        """Give memory back if the process holds more than open sessions, which may use so much, account for."""
        if own_bytes() > self._start_bytes + FRAGMENTATION * session_bytes + SLACK_BYTES:
            trim()
