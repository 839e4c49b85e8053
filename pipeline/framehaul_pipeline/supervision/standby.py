"""The process that a dead worker is replaced with: all imported, no device memory held, waiting to be told what to be.

A restart is nine tenths imports: torch's, and those of the decoders' libraries. Runs on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.link.messages import MAX_MESSAGE_BYTES, Probe, encode
from framehaul_pipeline.scheduling.restarts import RestartBudget
from framehaul_pipeline.supervision.process import WorkerProcess

_PROBE: Final = encode(Probe())
_IMPORT_S: Final = 120.0
"""From its start until it waits to be told; a worker from nothing has all of its `startup_timeout_s`."""
_ANSWER_S: Final = 5.0
"""For an answer of one that waits. Starting anew costs about as much, so a busy machine's delay does no harm."""

_log = logging.getLogger(__name__)


def needed_imports(config: WorkerConfig) -> tuple[str, ...]:
    """What a worker's decoders import when they are loaded; nothing of it takes device memory."""
    wanted = [name for model in config.models for name in (model.loader.partition(":")[0], *model.imports)]
    if config.device != "cpu":
        wanted += ["framehaul_pipeline.device.convert_kernels"]
        wanted += [name for model in config.models for name in model.cuda_imports]
    return tuple(dict.fromkeys(wanted))


class Standby:
    """Owner of at most one process that stands by."""

    def __init__(self, config: WorkerConfig, budget: RestartBudget) -> None:
        """Start without one, for workers of `config`; one that dies is replaced as often as `budget` allows."""
        self._imports = needed_imports(config)
        self._budget = budget
        self._process: WorkerProcess | None = None
        self._imported_by_s = 0.0
        self._gone = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Its process id; None when there is none."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start one; nothing when there is one."""
        if self._process is None:
            self._gone.clear()
            self._process = WorkerProcess(on_exit=self._exited, imports=self._imports)
            self._process.connection.setblocking(False)
            with suppress(ConnectionError):
                self._process.connection.send(_PROBE)  # answered when it has imported everything
            self._imported_by_s = asyncio.get_running_loop().time() + _IMPORT_S

    async def take(self) -> WorkerProcess | None:
        """Hand it over once it has shown that it lives; None when there is none, or one that doesn't, which is killed.

        Cancellation: it stays ours.
        """
        process = self._release()
        if process is None:
            return None
        process.on_exit = lambda code: self._gone.set()
        lives = False
        try:
            lives = await self._answers(process) and not self._gone.is_set()
        finally:
            if not lives:
                self._process = process
        if lives:
            return process
        _log.error("standby gives no answer pid=%d: killed, a worker starts from nothing", process.pid)
        await self.aclose()
        return None

    async def _answers(self, process: WorkerProcess) -> bool:
        """Whether it has imported everything in time, and still answers."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(max(self._imported_by_s, loop.time() + _ANSWER_S)):
                await loop.sock_recv(process.connection, MAX_MESSAGE_BYTES)
            async with asyncio.timeout(_ANSWER_S):
                process.connection.send(_PROBE)
                return bool(await loop.sock_recv(process.connection, MAX_MESSAGE_BYTES))
        except (TimeoutError, ConnectionError):
            return False

    def _release(self) -> WorkerProcess | None:
        process, self._process = self._process, None
        return process

    async def aclose(self) -> None:
        """Kill it, and wait until it is gone. Twice is fine.

        Cancellation: it is killed all the same.
        """
        process = self._release()
        if process is not None:
            process.on_exit = lambda code: self._gone.set()
            process.kill()
            process.connection.close()
            await self._gone.wait()

    def _exited(self, code: int) -> None:
        process = self._release()
        assert process is not None, "only its owner hears of its exit"
        process.connection.close()
        if self._budget.spend(asyncio.get_running_loop().time()):
            _log.warning("standby gone pid=%d exit_code=%d: replaced", process.pid, code)
            self.start()
        else:
            _log.error("standby gone pid=%d exit_code=%d: none until a worker is restarted", process.pid, code)
