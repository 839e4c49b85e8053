"""Stopping by signal: the first SIGTERM or SIGINT asks the server to drain, the second ends the process at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import Final

from framehaul_server import logs

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SECOND_SIGNAL_EXIT: Final = 128
"""Added to the signal's number, as shells do."""

_log = logging.getLogger(__name__)


def _exit_now(code: int) -> None:
    logging.shutdown()
    # No clean-up: the worker ends by itself when its socket closes, and rings vanish with the last process.
    os._exit(code)


class StopSignals:
    """Listens for signals between `install` and `remove`."""

    def __init__(self, exit_now: Callable[[int], None] = _exit_now) -> None:
        """End the process with `exit_now` at the second signal."""
        self.requested = asyncio.Event()
        self._exit_now = exit_now

    def install(self) -> None:
        """Take over the signals in the running loop."""
        for number in STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._handle, number)

    def remove(self) -> None:
        """Restore the loop's own handling."""
        for number in STOP_SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _handle(self, number: signal.Signals) -> None:
        if self.requested.is_set():
            _log.warning("%s", logs.line("signal", name=number.name, action="exit"))
            self._exit_now(SECOND_SIGNAL_EXIT + number)
        else:
            _log.info("%s", logs.line("signal", name=number.name, action="drain"))
            self.requested.set()
