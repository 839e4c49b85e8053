"""Waiting for a state that sends no event to us: another process's, or one deep inside of the server."""

import asyncio
import time
from collections.abc import Callable


async def eventually(condition: Callable[[], bool], what: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait on the event loop; `what` says what is there instead."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what()}"
        await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Likewise where no event loop runs, or must not."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
