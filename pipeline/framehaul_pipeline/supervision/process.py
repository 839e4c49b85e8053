"""The worker's operating-system process: spawned, watched through a pidfd, killed. Runs on the server's event loop.

A process is spawned without knowing what it will be: it imports torch, and what it is told to, and waits for
`Configure`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

_ENVIRONMENT: Final = {
    # OpenMP's threads spin at each barrier by default; beside a busy encoder that made CPU decoding 7 times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # A CPU decode's activations come from the heap and stay there (glibc, mallopt(3)): fresh pages for each layer cost
    # more than half of its time.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}


class WorkerProcess:
    """A process that speaks over one socket; `connection` is our end, and the caller's to own."""

    def __init__(self, *, on_exit: Callable[[int], None], imports: Sequence[str] = ()) -> None:
        """Spawn; `on_exit` is called once with the exit code when the process is truly gone.

        Args:
            on_exit: see above.
            imports: modules to import before it waits; the log tells of those that can't be.
        """
        self.on_exit = on_exit
        """May be changed while the process runs: by whoever takes it over."""
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "framehaul_pipeline.worker.start", str(theirs.fileno()), *imports],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=_ENVIRONMENT | os.environ,
            )
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def kill(self) -> None:
        """End the process at once; nothing when it has ended."""
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        code = self._process.wait()
        os.close(self._pidfd)
        self._pidfd = -1
        self.on_exit(code)
