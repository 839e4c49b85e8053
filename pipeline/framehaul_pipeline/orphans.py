"""No process outlives the one that started it: a worker its server, a server its front."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2)."""


def end_with_parent() -> None:
    """Have this process killed once the thread that started it is gone.

    A child sees the end of its socket, but not while it is stopped, or hangs in a driver, with the device's memory.

    Raises:
        OSError: the system doesn't know this.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
