"""Asks a benchmark's worker what its GPU did; `answer` connects to us over a unix socket named in its environment."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from types import TracebackType
from typing import Any, Final, Self

VARIABLE: Final = "FRAMEHAUL_BENCH_CONTROL"
_CONNECT_TIMEOUT_S: Final = 120.0
_ANSWER_TIMEOUT_S: Final = 60.0


class Control:
    """The asking end."""

    def __init__(self) -> None:
        """Listen; `path` goes into the server's environment as `VARIABLE`."""
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.path = os.path.join(self._folder.name, "control")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._listener.settimeout(_CONNECT_TIMEOUT_S)
        self._connection: socket.socket | None = None

    def __enter__(self) -> Self:
        """Return the asking end."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        if self._connection is not None:
            self._connection.close()
        self._listener.close()
        self._folder.cleanup()

    def ask(self, command: str) -> dict[str, Any]:
        """Send `start`, `stop`, `copied` or `memory`; the answer has `error` where that failed."""
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._connection.settimeout(_ANSWER_TIMEOUT_S)
            self._file = self._connection.makefile("r")
        self._connection.sendall(command.encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._file.readline() or '{"error": "the worker is gone"}')
        return answer
