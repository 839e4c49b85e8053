"""What a fleet is to be, what it is, and what to do about the difference. Pure; the clock is a value."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from framehaul.address import Address
from framehaul_server.front.host import HostShare, share_argument

REGISTRY: Final = "registry"
SERVER_PREFIX: Final = "server-"
"""Names of actors, within a fleet's namespace."""
MOST_SERVERS: Final = 10_000
DRAIN_MARGIN_S: Final = 30.0
"""A server ends at most 10 s after its grace period; its actor and Ray take their time too."""
SILENT_S: Final = 60.0
"""An actor reports each second. After this it hangs, or its node is cut off."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    """What a fleet is to be. Ray keeps it with the registry, and gives it to each one that takes a dead one's place."""

    name: str = "default"
    least: int = 1
    most: int = 1
    gpus: bool = True
    """A GPU for each server; without, a processor."""
    sessions: int = 0
    """For each server, as many as autoscaling aims at; 0: four fifths of what it takes."""
    hold_s: float = 60.0
    """Load must have been low for this long before a server is let go."""
    start_s: float = 900.0
    """For a server to be ready, from the moment that its actor is asked for: a new node's start is in it."""
    grace_s: float = 30.0
    metrics: bool = False
    """Each server serves its metrics, at a port that the system picks."""
    arguments: tuple[str, ...] = ()
    """Of the `server` command."""
    drained: frozenset[str] = field(default_factory=frozenset)
    """Nodes that get no servers, and lose those that they have."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: names the field, its value and the range.
        """
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name={self.name!r}: must be up to 40 of a-z, 0-9 and -, and begin with a letter or digit"
            )
        if not 0 <= self.least <= self.most <= MOST_SERVERS:
            raise ValueError(f"min={self.least}, max={self.most}: must be 0 <= min <= max <= {MOST_SERVERS}")
        for name, low, high in (
            ("sessions", 0, 10_000),
            ("hold_s", 0.0, 86_400.0),
            ("start_s", 1.0, 86_400.0),
            ("grace_s", 0.0, 3600.0),
        ):
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name}={value}: must be {low}..{high}")

    def new_name(self) -> str:
        """For an actor that runs a server as this says; it tells so."""
        return f"{self._prefix}{secrets.token_hex(4)}"

    def made(self, name: str) -> bool:
        """Whether the server of the actor of this name runs as this says, but for its time to start."""
        return name.startswith(self._prefix)

    @property
    def _prefix(self) -> str:
        told = repr((self.gpus, self.grace_s, self.metrics, self.arguments))
        return f"{SERVER_PREFIX}{hashlib.sha256(told.encode()).hexdigest()[:8]}-"


OWN_FLAGS: Final = frozenset({"--listen", "--advertise", "--grace", "--device", "--devices", "--metrics", "--explain"})
"""Of the `server` command, those that the fleet decides, or that make no sense in one."""


def server_arguments(spec: FleetSpec, host: str, share: HostShare) -> list[str]:
    """What the server at `host` is told, with what it takes by default of its host's memory, `share` being its own."""
    device = "cuda" if spec.gpus else "cpu"
    own = ["--devices=", f"--device={device}", f"--listen={Address(host=host, port=0)}", f"--grace={spec.grace_s:g}"]
    if spec.metrics:
        own.append(f"--metrics={Address(host=host, port=0)}")
    return [share_argument(device, share), *spec.arguments, *own]


def namespace_of(name: str) -> str:
    """Where a fleet's actors are: two fleets know nothing of each other."""
    return f"framehaul-{name}"


class State(StrEnum):
    """Of a server, as its actor last told; a pending one's has never told anything."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an actor tells of its server each second."""

    name: str
    host: str
    node: str
    pid: int
    """Of the actor's process, whose child the server is."""
    draining: bool = False
    ready: bool = False
    target: str = ""
    epoch: int = 0
    sessions: int = 0
    queued: int = 0
    places: int = 0
    exit_code: int | None = None
    """Of the server's last process that has ended."""


@dataclass(slots=True)
class Row:
    """An actor that Ray has, and since when it is as it is."""

    name: str
    first_s: float
    report: Report | None = None
    heard_s: float = 0.0
    ready_s: float | None = None
    """When it was last ready."""
    draining_s: float | None = None
    """Since when it is, or was told to be."""

    @property
    def state(self) -> State:
        """As the table shows it."""
        if self.report is None:
            return State.PENDING
        if self.draining_s is not None:
            return State.DRAINING
        return State.READY if self.report.ready else State.STARTING

    @property
    def busy(self) -> int:
        """Sessions that are there, or wait there."""
        return 0 if self.report is None else self.report.sessions + self.report.queued

    def hear(self, report: Report, now_s: float) -> None:
        """Take a report."""
        self.report = report
        self.heard_s = now_s
        if report.ready:
            self.ready_s = now_s
        if report.draining and self.draining_s is None:
            self.draining_s = now_s


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now."""

    num_new: int
    drain: list[str]
    kill: dict[str, str]
    """Names, and why."""


def overdue(row: Row, spec: FleetSpec, now_s: float) -> str:
    """Why an actor must be given up; empty while it needn't."""
    if row.report is not None and now_s - row.heard_s > SILENT_S:
        return f"it has been silent for {SILENT_S:g} s"
    if row.draining_s is not None:
        limit_s = spec.grace_s + DRAIN_MARGIN_S
        return f"it drains for more than {limit_s:g} s" if now_s - row.draining_s > limit_s else ""
    since_s = row.first_s if row.ready_s is None else row.ready_s
    if now_s - since_s > spec.start_s:
        what = "it was not placed" if row.report is None else "its server was not ready"
        return f"{what} for {spec.start_s:g} s"
    return ""


def make_plan(rows: Iterable[Row], spec: FleetSpec, desired: int, now_s: float) -> Plan:
    """Bring `rows` to `desired` servers outside of drained nodes, all as `spec` says; one that drains counts no more.

    What is let go is first what isn't ready, then what isn't as `spec` says, then what has the fewest sessions. Of
    those that aren't as it says but ready, one at a time goes, when all others are ready: so one that doesn't come up
    stops the change.
    """
    kill: dict[str, str] = {}
    drain: list[str] = []
    staying: list[Row] = []

    def let_go(row: Row, reason: str) -> None:
        if row.report is None:
            kill[row.name] = reason
        else:
            drain.append(row.name)

    for row in rows:
        if reason := overdue(row, spec, now_s):
            kill[row.name] = reason
        elif row.draining_s is not None:
            continue
        elif row.report is not None and row.report.node in spec.drained:
            drain.append(row.name)
        elif row.state is not State.READY and not spec.made(row.name):
            let_go(row, "it has other options")
        else:
            staying.append(row)
    staying.sort(
        key=lambda row: (row.state is State.READY, spec.made(row.name), row.busy, -row.first_s, row.name),
    )
    surplus = max(0, len(staying) - desired)
    for row in staying[:surplus]:
        let_go(row, "it is needed no more")
    num_new = max(0, desired - len(staying))
    others = [row for row in staying[surplus:] if not spec.made(row.name)]
    if others and not num_new and all(row.state is State.READY for row in staying[surplus:]):
        drain.append(others[0].name)
    return Plan(num_new, drain, kill)


class Scaler:
    """How many servers to have.

    As many as the load needs, at once; fewer only when fewer were enough for the whole of `hold_s`. So a load that
    comes back within that time changes nothing.
    """

    def __init__(self, spec: FleetSpec, current: int, now_s: float) -> None:
        """Begin with `current` servers."""
        self._spec = spec
        self._needed = [(now_s, self._bounded(current))]
        """What was needed when, over `hold_s`; only what later needs don't exceed, so they fall."""

    def desired(self, rows: Iterable[Row], now_s: float) -> int:
        """How many to have, given what `rows` report now."""
        there = [row.report for row in rows if row.report is not None and row.draining_s is None]
        places = [report.places for report in there if report.places]
        needed = self._spec.least
        if places:
            aim = self._spec.sessions or max(1.0, 0.8 * sum(places) / len(places))
            needed = math.ceil(sum(report.sessions + report.queued for report in there) / aim)
        needed = self._bounded(needed)
        while self._needed and self._needed[-1][1] <= needed:
            self._needed.pop()
        self._needed.append((now_s, needed))
        while now_s - self._needed[0][0] > self._spec.hold_s:
            self._needed.pop(0)
        return self._needed[0][1]

    def _bounded(self, number: int) -> int:
        return min(max(number, self._spec.least), self._spec.most)
