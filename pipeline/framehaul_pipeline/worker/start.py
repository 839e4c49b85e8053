"""What a worker process runs first: `python -m framehaul_pipeline.worker.start FD [MODULE...]`.

Only the server decides when a worker stops, and a terminal's or a service manager's signal reaches both. So signals are
ignored here, before the seconds that importing torch takes. A process that has not been told to be a worker yet, a
standby, waits in `worker.main` with everything imported and no device touched.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2)."""


def main() -> int:
    """Run the worker; gives its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    from framehaul_pipeline.worker import main as process

    return process.main()


def end_with_parent() -> None:
    """Have this process killed once the thread that started it is gone.

    A worker sees the end of its socket, but not while it is stopped, or hangs in a driver, with the device's memory.

    Raises:
        OSError: the system doesn't know this.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    sys.exit(main())
