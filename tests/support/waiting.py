"""Waiting for a state that sends no event to us: another process's, or one deep inside of the server.

Limits are counted in naps, not read off a clock: while the machine stands still nobody gets nearer to them.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NAP_S = 0.01


async def eventually(condition: Callable[[], bool], what: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait on the event loop; `what` says what is there instead."""
    with nap_clock() as clock:
        while not condition():
            assert clock() < timeout_s, f"not within {timeout_s} s: {what()}"
            await asyncio.sleep(_NAP_S)


@contextmanager
def nap_clock() -> Iterator[Callable[[], float]]:
    """Tells the seconds since then in which the event loop ran."""
    loop = asyncio.get_running_loop()
    num_naps = 0

    def nap() -> None:
        nonlocal num_naps
        num_naps += 1
        timers[0] = loop.call_later(_NAP_S, nap)

    timers = [loop.call_later(_NAP_S, nap)]
    try:
        yield lambda: num_naps * _NAP_S
    finally:
        timers[0].cancel()


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Likewise where no event loop runs, or must not."""
    num_naps = 0
    while not condition():
        assert num_naps * _NAP_S < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(_NAP_S)
        num_naps += 1
