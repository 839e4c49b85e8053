"""Stopping by signal: the first SIGTERM, SIGINT or SIGHUP asks the server to drain, the second ends it at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from framehaul_server import logs

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP is what a terminal that closes sends; nohup ignores it, and so it stays."""
SECOND_SIGNAL_EXIT: Final = 128
"""Added to the signal's number, as shells do."""

_log = logging.getLogger(__name__)


def _exit_now(code: int) -> None:
    logging.shutdown()
    # No clean-up: the worker ends by itself when its socket closes, and rings vanish with the last process.
    os._exit(code)


@contextmanager
def stop_signals(exit_now: Callable[[int], None] = _exit_now) -> Iterator[asyncio.Event]:
    """Within it, in the running loop, the first signal sets the event that it gives and the second calls `exit_now`."""
    requested = asyncio.Event()

    def handle(number: signal.Signals) -> None:
        if requested.is_set() and number is signal.SIGHUP:
            return  # shell and kernel both send it when a terminal closes
        if requested.is_set():
            _log.warning("%s", logs.line("signal", name=number.name, action="exit"))
            exit_now(SECOND_SIGNAL_EXIT + number)
        else:
            _log.info("%s", logs.line("signal", name=number.name, action="drain"))
            requested.set()

    loop = asyncio.get_running_loop()
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, handle, number)
    try:
        yield requested
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
