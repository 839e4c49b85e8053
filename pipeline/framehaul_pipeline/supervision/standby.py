"""The process that a dead worker is replaced with: all imported, no device memory held, waiting to be told what to be.

A restart is nine tenths imports: torch's, and those of the decoders' libraries. Runs on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging

from framehaul_pipeline.scheduling.restarts import RestartBudget
from framehaul_pipeline.supervision.config import WorkerConfig
from framehaul_pipeline.supervision.process import WorkerProcess

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

    def take(self) -> WorkerProcess | None:
        """Hand it over, whether or not it has imported everything yet; None when there is none."""
        process, self._process = self._process, None
        return process

    async def aclose(self) -> None:
        """Kill it, and wait until it is gone. Twice is fine.

        Cancellation: it is killed all the same.
        """
        process = self.take()
        if process is not None:
            process.on_exit = lambda code: self._gone.set()
            process.kill()
            process.connection.close()
            await self._gone.wait()

    def _exited(self, code: int) -> None:
        process = self.take()
        assert process is not None, "only its owner hears of its exit"
        process.connection.close()
        if self._budget.spend(asyncio.get_running_loop().time()):
            _log.warning("standby gone pid=%d exit_code=%d: replaced", process.pid, code)
            self.start()
        else:
            _log.error("standby gone pid=%d exit_code=%d: none until a worker is restarted", process.pid, code)
