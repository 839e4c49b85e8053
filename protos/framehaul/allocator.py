"""Keeps large freed blocks in the process, so that streaming megabyte messages doesn't fault in fresh pages each time.

Affects the whole process: the server calls it at start, the client library only when asked.
Measured in docs/benchmarks.md ("Transport").
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MMAP_THRESHOLD_BYTES = 32 << 20
_TRIM_THRESHOLD_BYTES = 512 << 20


def tune_allocator(*, one_heap: bool = False) -> bool:
    """Set glibc's `M_MMAP_THRESHOLD` and `M_TRIM_THRESHOLD` (mallopt(3)); call before the first large allocation.

    Resident memory then stays at its high-water mark until `give_back`.

    Args:
        one_heap: all threads share one (`M_ARENA_MAX`). Of another thread's heap `give_back` can't return the end.

    Returns:
        False where there is no glibc or it refuses, and nothing was changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        and libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
        and (not one_heap or libc.mallopt(_M_ARENA_MAX, 1))
    )


def give_back() -> bool:
    """Give freed blocks back to the system (malloc_trim(3)), for a process that has nothing to do.

    Returns:
        False where there is no glibc, or nothing to give.
    """
    return platform.libc_ver()[0] == "glibc" and bool(ctypes.CDLL(None).malloc_trim(0))
