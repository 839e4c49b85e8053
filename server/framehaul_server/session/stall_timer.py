"""Ends sessions whose client lives and does nothing: pings are answered by a process, whatever its program does.

Runs on the event loop, on one timer for each session. Pure but for the timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_LOOKS: Final = 4
"""In one timeout; so a session ends between one timeout and five quarters of it."""


class StallTimer:
    """Watches a value that changes while a session moves."""

    def __init__(self, timeout_s: float, *, position: Callable[[], object], stalled: Callable[[], None]) -> None:
        """Call `stalled` once, when `position` has given the same value for `timeout_s`."""
        self._interval_s = timeout_s / _LOOKS
        self._position = position
        self._stalled = stalled
        self._last: object = None
        self._num_same = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch, or begin again."""
        self._num_same = 0
        self._last = self._position()
        self._arm()

    def stop(self) -> None:
        """Watch no more; twice is fine."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._look)

    def _look(self) -> None:
        position = self._position()
        self._num_same = self._num_same + 1 if position == self._last else 0
        self._last = position
        if self._num_same == _LOOKS:
            self.stop()
            self._stalled()
        else:
            self._arm()
