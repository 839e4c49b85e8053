"""Who is in a fleet now, by what Ray and the servers' actors say. Pure; the clock is a value.

Ray says which actors there are; each of them tells of itself every second. A table that begins anew knows all of it
again in a moment, and decides nothing before.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any, Final

from framehaul_fleet.on_ray.plan import FleetSpec, Plan, Report, Row, Scaler, make_plan

SETTLE_S: Final = 5.0
"""For the actors that are there to tell of themselves, before anything is decided."""
_LONGEST_DELAY_S: Final = 60.0
_NOTHING: Final = Plan(0, [], {})


class Table:
    """The registry's judgement. Times are seconds of one monotonic clock."""

    def __init__(self, spec: FleetSpec, now_s: float) -> None:
        """Begin with no actor known."""
        self.spec = spec
        self._began_s = now_s
        self._rows: dict[str, Row] = {}
        self._desired = spec.least
        self._has_looked = False
        self._scaler: Scaler | None = None
        """Once the table is settled."""
        self._given_up: set[str] = set()
        self._num_failures = 0
        """Looks that found an actor gone which never told anything, since one last did for the first time."""
        self._again_s = now_s
        """Then the next ones may be asked for."""

    def report(self, report: Report, now_s: float) -> bool:
        """Take what an actor says of its server; whether that should drain.

        It should as well when Ray doesn't know the actor any more: its node was lost, and others are in its place.
        """
        if self._has_looked and report.name not in self._rows:
            return True
        row = self._rows.setdefault(report.name, Row(report.name, now_s))
        if row.report is None:
            self._num_failures = 0
        row.hear(report, now_s)
        return row.draining_s is not None

    def created(self, name: str, now_s: float) -> None:
        """Know an actor that was asked for."""
        self._rows.setdefault(name, Row(name, now_s))

    def look(self, names: Collection[str], now_s: float) -> Plan:
        """Given the actors that Ray has, decide what to do; nothing while it isn't known how they are."""
        gone = [self._rows.pop(name) for name in self._rows.keys() - set(names)]
        if any(row.report is None and row.name not in self._given_up for row in gone):
            self._num_failures += 1
            self._again_s = now_s + min(_LONGEST_DELAY_S, 2.0**self._num_failures)
        self._given_up.intersection_update(self._rows)
        for name in names:
            self.created(name, now_s)
        self._has_looked = True
        rows = list(self._rows.values())
        if self._scaler is None:
            if now_s - self._began_s < SETTLE_S and any(row.report is None for row in rows):
                return _NOTHING
            self._scaler = Scaler(self.spec, sum(row.draining_s is None for row in rows), now_s)
        self._desired = self._scaler.desired(rows, now_s)
        plan = make_plan(rows, self.spec, self._desired, now_s)
        for name in plan.drain:
            self._rows[name].draining_s = now_s
        self._given_up.update(plan.kill)
        return plan if now_s >= self._again_s else replace(plan, num_new=0)

    def targets(self) -> list[str]:
        """Where servers are that have begun to serve, those that drain among them; none before all are known."""
        if self._scaler is None:
            return []
        return [row.report.target for row in self._rows.values() if row.report is not None and row.report.target]

    def status(self, now_s: float) -> dict[str, Any]:
        """What there is, as `fleet status --json` prints it."""
        return {
            "name": self.spec.name,
            "min": self.spec.least,
            "max": self.spec.most,
            "desired": self._desired,
            "settled": self._scaler is not None,
            "drained": sorted(self.spec.drained),
            "failures": self._num_failures,
            "servers": [_shown(row, self.spec, now_s) for row in self._rows.values()],
        }


def _shown(row: Row, spec: FleetSpec, now_s: float) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": row.name, "state": row.state.value, "known_s": round(now_s - row.first_s, 1)}
    shown["as_told"] = spec.made(row.name)
    if row.report is not None:
        told = asdict(row.report)
        del told["draining"], told["ready"]  # `state` says it
        shown |= told | {"silent_s": round(now_s - row.heard_s, 1)}
    return shown
