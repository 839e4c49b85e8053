"""The registry: which servers there are, and how many there should be. Runs in an actor of its own.

It keeps nothing that must outlive it. Ray starts it again with the same specification; Ray knows the servers' actors by
their names; and each of these tells the registry about itself every second.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import Any, Final

import ray
from ray.exceptions import RayError

from framehaul import logs as log_form
from framehaul_fleet.on_ray.plan import SERVER_PREFIX, FleetSpec, Report
from framehaul_fleet.on_ray.server import Server
from framehaul_fleet.on_ray.table import Table
from framehaul_server import logs

LOOK_S: Final = 1.0
_NODE_ID: Final = "ray.io/node-id"

_log = logging.getLogger(__name__)


class Registry:
    """The actor. Its methods run on Ray's threads, the look at the servers on one of its own."""

    def __init__(self, spec: FleetSpec) -> None:
        """Begin with no server known, and look after `spec`."""
        log_form.configure("info")
        self._spec = spec
        self._lock = threading.Lock()
        self._table = Table(spec, time.monotonic())
        threading.Thread(target=self._look_on, name="look", daemon=True).start()

    def report(self, report: Report) -> bool:
        """Take what an actor says of its server; whether that should drain."""
        with self._lock:
            return self._table.report(report, time.monotonic())

    def targets(self) -> list[str]:
        """Where the servers are."""
        with self._lock:
            return self._table.targets()

    def status(self) -> dict[str, Any]:
        """What there is, as `fleet status --json` prints it."""
        with self._lock:
            return self._table.status(time.monotonic())

    def spec(self) -> FleetSpec:
        """What the fleet is to be."""
        return self._spec

    def _look_on(self) -> None:
        while True:
            time.sleep(LOOK_S)
            try:
                self._look()
            except (RayError, RuntimeError, ValueError) as error:
                _log.error("%s", logs.line("look_failed", reason=error))

    def _look(self) -> None:
        names = [name for name in ray.util.list_named_actors() if name.startswith(SERVER_PREFIX)]
        with self._lock:
            plan = self._table.look(names, time.monotonic())
        for name in plan.drain:
            _log.info("%s", logs.line("drain", server=name))
        for name, reason in plan.kill.items():
            _log.error("%s", logs.line("give_up", server=name, reason=reason))
            with suppress(ValueError):  # it is gone already
                ray.kill(ray.get_actor(name))
        for _ in range(plan.num_new):
            self._create()

    def _create(self) -> None:
        spec, name = self._spec, self._spec.new_name()
        _log.info("%s", logs.line("create", server=name))
        options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if spec.gpus else {"num_gpus": 0, "num_cpus": 1}
        if spec.drained:
            options["label_selector"] = {_NODE_ID: f"!in({','.join(sorted(spec.drained))})"}
        with self._lock:  # before it can report
            self._table.created(name, time.monotonic())
        # Not started again by Ray: the registry sees that it is gone, and asks for another.
        actor = ray.remote(Server).options(
            name=name, lifetime="detached", max_restarts=0, scheduling_strategy="SPREAD", **options
        )
        actor.remote(spec, name)
