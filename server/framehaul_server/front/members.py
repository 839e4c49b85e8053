"""A server of a host's front: a process that is started, heard, and started again when it ends.

Both hold an end of a socket. The server reports over it what it would tell `GetServerInfo`, ten times a second. The end
of the front's sending half tells it to drain, and nothing else does: signals that reach a whole group are the front's.
It is killed with the front. Runs on the front's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from framehaul.v1 import frames_pb2 as pb
from framehaul_server import logs
from framehaul_server.core.placement import GONE_S

REPORT_S: Final = 0.1
"""Sessions that begin as others end go by what is in use now. A report takes 0.03 ms."""
MAX_REPORT_BYTES: Final = 64 << 10
MODULE: Final = "framehaul_server.member"
_FIRST_DELAY_S: Final = 1.0
_LONGEST_DELAY_S: Final = 60.0
_EXIT_S: Final = 10.0
"""From the end of a process's socket to its own."""

_log = logging.getLogger(__name__)


class Member:
    """Owner of one server's process at a time."""

    def __init__(
        self,
        device: str,
        arguments: Sequence[str],
        *,
        processors: Iterable[int] = (),
        startup_s: float,
        on_report: Callable[[pb.ServerInfo], None],
        on_gone: Callable[[str], None],
        module: str = MODULE,
    ) -> None:
        """Prepare to run `module` with `arguments` on `processors`, or on all of them.

        Args:
            device: for the log.
            arguments: of the `server` command.
            processors: near the device.
            startup_s: for a process to report for the first time; it is killed after that.
            on_report: gets each report.
            on_gone: gets the target of a process that had reported, once it has ended.
            module: what is run.
        """
        self.device = device
        self._arguments = arguments
        self._processors = ",".join(map(str, sorted(processors)))
        self._startup_s = startup_s
        self._on_report = on_report
        self._on_gone = on_gone
        self._module = module
        self._stopping = asyncio.Event()
        self._ours: socket.socket | None = None
        self._target = ""
        self._num_failures = 0
        self.settled = asyncio.Event()
        """It has reported, or its first process has ended without that."""
        self.exit_code: int | None = None
        """Of the last process that has ended."""

    async def run(self) -> None:
        """Keep one running until `drain`, and then until it has ended.

        Cancellation: it is killed.
        """
        while not self._stopping.is_set():
            await self._once()
            self.settled.set()
            if self._stopping.is_set():
                return
            delay_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0**self._num_failures)
            self._num_failures += 1
            _log.error("%s", logs.line("server_gone", device=self.device, exit_code=self.exit_code, again_s=delay_s))
            try:
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def drain(self) -> None:
        """Let it end, and start no other. Twice is fine."""
        self._stopping.set()
        if self._ours is not None:
            self._ours.shutdown(socket.SHUT_WR)

    async def _once(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        with self._ours:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    self._module,
                    str(theirs.fileno()),
                    self._processors,
                    *self._arguments,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
            _log.info(
                "%s", logs.line("server", device=self.device, pid=process.pid, processors=self._processors or "all")
            )
            try:
                await self._listen(self._ours, process)
                async with asyncio.timeout(_EXIT_S):
                    await process.wait()
            except TimeoutError:
                _log.error("%s", logs.line("server_stays", device=self.device, seconds=_EXIT_S, action="kill"))
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                self._ours = None
                self.exit_code = process.returncode
                if self._target:
                    self._on_gone(self._target)
                    self._target = ""

    async def _listen(self, ours: socket.socket, process: asyncio.subprocess.Process) -> None:
        """Hear reports until it has ended, or is silent for too long."""
        limit_s = self._startup_s
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(limit_s):
                    raw = await loop.sock_recv(ours, MAX_REPORT_BYTES)
                info = pb.ServerInfo.FromString(raw)
            except TimeoutError:
                _log.error("%s", logs.line("server_silent", device=self.device, seconds=limit_s, action="kill"))
                process.kill()
                return
            except (ConnectionError, DecodeError):
                return
            if not raw:
                return
            limit_s = GONE_S
            self._target = info.target
            self._num_failures = 0
            self._on_report(info)
            self.settled.set()
