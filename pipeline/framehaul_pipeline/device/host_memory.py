"""The host's memory, as far as it is the worker's: how much there is for it, and what its allocator keeps of it.

glibc's allocator is told to keep what is freed (`supervision/process.py`): fresh pages for each layer of a decode on
the CPU would cost up to half of its time. So it keeps a chunk's peak, and gaps between blocks of other sizes, until it
is told to give them back (malloc_trim(3)). For the worker process; the server asks how much there is, when it starts.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")
SLACK_BYTES: Final = 256 << 20
"""What else may grow beside sessions: a library's primitives for new shapes, the interpreter."""
FRAGMENTATION: Final = 2
"""How many times what sessions may use they take from the host: gaps of the allocator's; 1.8 is the most seen."""


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """What this process may still take: of the host, and of the container it is in (cgroup v2)."""
    available = _from_meminfo(meminfo, "MemAvailable")
    limit = _limit_bytes(cgroup)
    return available if limit is None else min(available, max(0, limit - int((cgroup / "memory.current").read_text())))


def total_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """All that there is: of the host, or of the container."""
    total = _from_meminfo(meminfo, "MemTotal")
    limit = _limit_bytes(cgroup)
    return total if limit is None else min(total, limit)


def _from_meminfo(meminfo: Path, name: str) -> int:
    found = re.search(rf"^{name}: +(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    assert found is not None, "Linux tells since 3.14"
    return int(found[1]) << 10


def _limit_bytes(cgroup: Path) -> int | None:
    try:
        most = (cgroup / "memory.max").read_text().strip()
    except FileNotFoundError:
        return None
    return None if most == "max" else int(most)


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
