"""Waiting for a state that sends no event to us: another process's, or one deep inside of the server."""

import asyncio
import time
from collections.abc import Callable

import psutil


async def eventually(condition: Callable[[], bool], what: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait on the event loop; `what` says what is there instead."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what()}"
        await asyncio.sleep(0.01)


async def imported(pid: int) -> None:
    """Wait until a process has imported everything: nobody tells, but it uses no processor any more."""
    process = psutil.Process(pid)
    before, now = -1.0, 0.0
    while now != before or now < 0.5:
        await asyncio.sleep(0.3)
        before, now = now, sum(process.cpu_times()[:2])


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Likewise where no event loop runs, or must not."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
