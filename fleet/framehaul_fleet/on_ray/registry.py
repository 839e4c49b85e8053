"""The registry: which servers there are, and how many there should be. Runs in an actor of its own.

It keeps nothing that must outlive it. Ray starts it again with the same specification; Ray knows the servers' actors by
their names; and each of these tells the registry about itself every second.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import Any, Final

import ray
from ray.exceptions import RayError

from framehaul import logs as log_form
from framehaul_fleet.on_ray.plan import SERVER_PREFIX, FleetSpec, Report, Row, Scaler, make_plan
from framehaul_fleet.on_ray.server import Server
from framehaul_server import logs

LOOK_S: Final = 1.0
SETTLE_S: Final = 5.0
"""For the servers that are there to report, before anything is decided."""
_NODE_ID: Final = "ray.io/node-id"

_log = logging.getLogger(__name__)


class Registry:
    """The actor. Its methods run on Ray's threads, the look at the servers on one of its own."""

    def __init__(self, spec: FleetSpec) -> None:
        """Begin with no server known, and look after `spec`."""
        log_form.configure("info")
        self._spec = spec
        self._lock = threading.Lock()
        self._rows: dict[str, Row] = {}
        self._desired = spec.least
        self._scaler: Scaler | None = None
        self._began_s = time.monotonic()
        threading.Thread(target=self._look_on, name="look", daemon=True).start()

    def report(self, report: Report) -> bool:
        """Take what an actor says of its server; whether that should drain."""
        now_s = time.monotonic()
        with self._lock:
            row = self._rows.setdefault(report.name, Row(report.name, now_s))
            row.hear(report, now_s)
            return row.draining_s is not None

    def targets(self) -> list[str]:
        """Where servers are that have begun to serve, those that drain among them."""
        with self._lock:
            return [row.report.target for row in self._rows.values() if row.report is not None and row.report.target]

    def status(self) -> dict[str, Any]:
        """What there is, as `fleet status --json` prints it."""
        now_s = time.monotonic()
        with self._lock:
            rows = list(self._rows.values())
            return {
                "name": self._spec.name,
                "min": self._spec.least,
                "max": self._spec.most,
                "desired": self._desired,
                "settled": self._scaler is not None,
                "drained": sorted(self._spec.drained),
                "servers": [_shown(row, now_s) for row in rows],
            }

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
        names = {name for name in ray.util.list_named_actors() if name.startswith(SERVER_PREFIX)}
        now_s = time.monotonic()
        with self._lock:
            for name in names - set(self._rows):
                self._rows[name] = Row(name, now_s)
            for name in set(self._rows) - names:
                del self._rows[name]
            if now_s - self._began_s < SETTLE_S and names:
                return
            rows = list(self._rows.values())
            if self._scaler is None:
                self._scaler = Scaler(self._spec, sum(row.draining_s is None for row in rows), now_s)
            self._desired = self._scaler.desired(rows, now_s)
            plan = make_plan(rows, self._spec, self._desired, now_s)
            for name in plan.drain:
                self._rows[name].draining_s = now_s
        for name in plan.drain:
            _log.info("%s", logs.line("drain", server=name))
        for name, reason in plan.kill.items():
            _log.error("%s", logs.line("give_up", server=name, reason=reason))
            ray.kill(ray.get_actor(name))
        for _ in range(plan.num_new):
            self._create()

    def _create(self) -> None:
        spec, name = self._spec, SERVER_PREFIX + secrets.token_hex(4)
        _log.info("%s", logs.line("create", server=name, desired=self._desired))
        options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if spec.gpus else {"num_gpus": 0, "num_cpus": 1}
        if spec.drained:
            options["label_selector"] = {_NODE_ID: f"!in({','.join(sorted(spec.drained))})"}
        # Not started again by Ray: the registry sees that it is gone, and asks for another.
        actor = ray.remote(Server).options(
            name=name, lifetime="detached", max_restarts=0, scheduling_strategy="SPREAD", **options
        )
        actor.remote(spec, name)
        with self._lock:
            self._rows.setdefault(name, Row(name, time.monotonic()))


def _shown(row: Row, now_s: float) -> dict[str, Any]:
    report = row.report
    shown: dict[str, Any] = {"name": row.name, "state": row.state.value, "known_s": round(now_s - row.first_s, 1)}
    if report is not None:
        shown |= {
            name: getattr(report, name)
            for name in ("host", "node", "pid", "target", "metrics", "epoch", "sessions", "queued", "places")
        }
        shown |= {"exit_code": report.exit_code, "silent_s": round(now_s - row.heard_s, 1)}
    return shown
