"""Keeps one worker process running and gives sessions to it. Runs on the server's event loop; imports no torch.

A worker that dies takes its sessions with it (`Unavailable`); a new one starts with fresh rings under the next epoch
number, until it has died too often in too short a time. It starts in the standby process, where there is one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from enum import Enum

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.errors import InvalidInput, PipelineError, Unavailable, WorkerRestarting
from framehaul_pipeline.link.heirloom import Heirloom
from framehaul_pipeline.link.messages import DeviceTime, Kernels, Opening
from framehaul_pipeline.scheduling.restarts import RestartBudget
from framehaul_pipeline.supervision.epoch import Epoch, SessionEvents, WorkerSession, WorkerStatistics
from framehaul_pipeline.supervision.standby import Standby

_STOP_TIMEOUT_S = 5.0
"""For a worker to end by itself: one that is stopped at all holds nothing of value any more, and mustn't hold us up."""

_log = logging.getLogger(__name__)


class WorkerFailed(PipelineError):
    """The worker doesn't start, or died more often than its restart budget allows."""


class WorkerState(Enum):
    """`STARTING -> READY -> RESTARTING -> READY`; FAILED past the restart budget; CLOSED at the end."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    CLOSED = "closed"


class Supervisor:
    """Owner of the worker process."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        on_state: Callable[[WorkerState], None] = lambda state: None,
        on_device_time: Callable[[DeviceTime], None] = lambda time: None,
    ) -> None:
        """Supervise a worker of `config`; `on_state` hears of each change, `on_device_time` of each chunk decoded.

        Sessions of the worker before are opened again in that call for READY: only then does a worker begin.
        """
        self._config = config
        self.state = WorkerState.STARTING
        self.device = ""
        """Set once the worker is ready."""
        self.memory_bytes = 0
        self._on_state = on_state
        self._on_device_time = on_device_time
        self._epoch: Epoch | None = None
        self._numbers = itertools.count(1)
        self._sessions = itertools.count(1)
        self._budget = RestartBudget(config.max_restarts, config.restart_window_s)
        self._standby = Standby(config, RestartBudget(config.max_restarts, config.restart_window_s))
        self._restart: asyncio.Task[None] | None = None
        self._heirloom: Heirloom | None = None

    @property
    def epoch(self) -> int:
        """Number of the worker's incarnation, 1 at first."""
        return self._current().number

    @property
    def shared_bytes(self) -> int:
        """Shared memory of the rings."""
        return self._current().shared_bytes

    @property
    def worker_pid(self) -> int:
        """Process id of the worker."""
        return self._current().pid

    @property
    def standby_pid(self) -> int | None:
        """Process id of the standby; None when there is none."""
        return self._standby.pid

    async def start(self) -> None:
        """Start the worker and wait until it is ready.

        Raises:
            WorkerFailed: it ended or wasn't ready in time.

        Cancellation: safe; call `aclose` afterwards.
        """
        if self._heirloom is None:
            self._heirloom = Heirloom.create()
        process = await self._standby.take()
        epoch = self._epoch = Epoch(
            next(self._numbers),
            self._config,
            self._heirloom,
            process=process,
            on_device_time=self._on_device_time,
            on_lost=self._lost,
            on_exit=self._exited,
        )
        try:
            async with asyncio.timeout(self._config.startup_timeout_s):
                ready = await asyncio.shield(epoch.ready)
        except TimeoutError as error:
            epoch.kill()
            raise WorkerFailed(f"the worker was not ready within {self._config.startup_timeout_s:.0f} s") from error
        except Unavailable as error:
            raise WorkerFailed(str(error)) from error
        if ready.specs != self._config.specs:
            epoch.kill()
            raise WorkerFailed(f"the worker serves {ready.specs}: must be {self._config.specs}")
        if epoch.lost:
            raise WorkerFailed("the worker process ended as soon as it was ready")
        self.device, self.memory_bytes = ready.device, ready.memory_bytes
        if self.state is not WorkerState.CLOSED:
            self._set_state(WorkerState.READY)
            epoch.begin()
            # Not before: it would take the processor from the worker's own start.
            if self._config.standby:
                self._standby.start()

    def open_session(self, opening: Opening, events: SessionEvents) -> WorkerSession:
        """Open a session; values must have been checked.

        Raises:
            WorkerRestarting: not now, but when `on_state` tells of READY.
            Unavailable: no worker is ready.
        """
        if self.state is not WorkerState.READY:
            kind = WorkerRestarting if self.state is WorkerState.RESTARTING else Unavailable
            raise kind(f"the worker is {self.state.value}; try again")
        return self._current().open_session(next(self._sessions), opening, events)

    def statistics(self) -> WorkerStatistics:
        """How full the rings and the device's memory are now."""
        return self._current().statistics()

    async def record_kernels(self, seconds: float, begun: Callable[[], None]) -> list[Kernels]:
        """Note for so long which kernels the device runs; `begun` is called when that begins, which takes a moment.

        Cancellation: nobody is told; the worker notes on to the end.

        Raises:
            InvalidInput: the device has no kernels.
            Overloaded: they are being noted already.
            Unavailable: the worker can't, or ended.
        """
        if not self.memory_bytes:
            raise InvalidInput("kernels", "true", f"false: {self.device} has no kernels, only GPUs have")
        if self.state is not WorkerState.READY:
            raise Unavailable(f"the worker is {self.state.value}; try again")
        return await self._current().record_kernels(seconds, begun)

    async def aclose(self) -> None:
        """Stop the worker: ask, wait, kill at last; the standby is killed at once. Twice is fine.

        Cancellation: kills the worker at once.
        """
        self._set_state(WorkerState.CLOSED)
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait([self._restart])
        try:
            await self._standby.aclose()
            await self._stop_worker()
        finally:
            if self._heirloom is not None:
                self._heirloom.close()
            if self._epoch is not None:
                self._epoch.kill()
        if self._epoch is not None:
            await self._epoch.exited.wait()

    async def _stop_worker(self) -> None:
        epoch = self._epoch
        if epoch is None or epoch.exited.is_set():
            return
        epoch.shut_down()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await epoch.exited.wait()
        except TimeoutError:
            _log.warning("worker doesn't stop epoch=%d pid=%d: killed", epoch.number, epoch.pid)

    def _current(self) -> Epoch:
        if self._epoch is None:
            raise Unavailable("the worker is not started")
        return self._epoch

    def _lost(self, epoch: Epoch) -> None:
        if epoch is self._epoch and self.state is WorkerState.READY:
            self._set_state(WorkerState.RESTARTING)

    def _exited(self, epoch: Epoch) -> None:
        was_ready = epoch.ready.exception() is None
        if epoch is not self._epoch or not was_ready or self.state is not WorkerState.RESTARTING:
            return
        if self._restart is not None and not self._restart.done():
            return  # it ended while it was started: the restart under way says so
        self._restart = asyncio.get_running_loop().create_task(self._restart_epoch(), name="worker-restart")

    async def _restart_epoch(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._budget.spend(clock()):
            try:
                await self.start()
            except WorkerFailed as error:
                _log.error("worker can't be restarted: %s", error)
                await self._current().exited.wait()  # it may still hold the device
            else:
                return
        _log.error("worker died %d times in %.0f s: given up", self._budget.num_deaths, self._config.restart_window_s)
        self._set_state(WorkerState.FAILED)

    def _set_state(self, state: WorkerState) -> None:
        if state is not self.state:
            _log.debug("worker %s -> %s", self.state.value, state.value)
            self.state = state
            self._on_state(state)
