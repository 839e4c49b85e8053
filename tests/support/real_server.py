"""The real server with a worker process on the CPU, as a process of its own."""

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.support.server_process import SAME_CHUNKS

_READY_TIMEOUT_S = 90
_LINE_TIMEOUT_S = 10


class RealServer:
    """A running server: its address, and its log line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), name="server log")
        self._reader.start()
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert " on " in ready, f"the server didn't start: {ready!r}"
        self.target = ready.partition(" on ")[2].split(",")[0]

    def session_end(self) -> dict[str, str]:
        """Wait for the next session's end, and return what the log says of it."""
        while True:
            line = self._lines.get(timeout=_LINE_TIMEOUT_S)
            if " session_end " in line:
                fields = (word.partition("=") for word in line.split() if "=" in word)
                return {name: value for name, _, value in fields}

    def close(self) -> None:
        """Stop it as a user does."""
        self._process.terminate()
        self._process.wait(timeout=_READY_TIMEOUT_S)
        self._reader.join()

    def _read(self, log: IO[str]) -> None:
        for line in log:
            self._lines.put(line)


@contextmanager
def real_server() -> Iterator[RealServer]:
    """Start one on a free port, and stop it in the end."""
    command = str(Path(sys.executable).with_name("server"))
    arguments = [command, "--listen", "127.0.0.1:0", "--device", "cpu", "--max-size", "512x512", *SAME_CHUNKS]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        server = RealServer(process)
        try:
            yield server
        finally:
            server.close()
