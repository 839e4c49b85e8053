"""Which server a session goes to: a table of servers in, an ordered answer out. Pure; the clock is a value.

The order is what has the model and room for its state, then a place, then the smallest part in use of places or of
memory for state. An answer holds its place until the server reports a session more, but for a moment only, so that a
burst spreads before the next reports.
Nothing is remembered that the next reports don't tell again, so that several tables may answer side by side.

What servers report is taken as far as it can be true. One that is silent is named after all others, then not at all.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import NotFound, Unavailable
from framehaul_server.core.session_id import epoch_of

HOLD_S: Final = 2.0
"""For which an answer counts as a session: until it is in the server's reports."""
FRESH_S: Final = 3.0
"""A server whose last report is older is named after all others."""
GONE_S: Final = 15.0
"""A server whose last report is older isn't named."""
MOST_NAMED: Final = 4
_CHOICES: Final = 8
"""Of the servers that are least in use, those among which a tenant's sessions are spread."""
MOST_HELD: Final = 1 << 16
"""Places, at most: whoever asks without end pushes the oldest ones out."""
_MOST_SESSIONS: Final = 10_000
"""More than a server can be configured for."""
_MOST_BYTES: Final = float(1 << 60)

_FITS, _QUEUES, _REFUSES, _SILENT, _NEVER = range(5)
"""What is to be expected of a server, the best first."""

_Key = tuple[float, int, int, str]
"""Part in use, sessions, when it was named last, target: the order of servers."""


@dataclass(frozen=True, slots=True)
class _Model:
    spatial_factor: int
    state_bytes_per_pixel: float


class _Server:
    """One server's last report, and what was promised there since."""

    def __init__(self, target: str, info: pb.ServerInfo, made_s: float) -> None:
        self.target = target
        self.held: deque[_Held] = deque()
        """Places that were named and aren't in its reports, by time."""
        self.held_bytes = 0
        self.sessions = 0
        self.named = 0
        """Counts answers: the server that was named longest ago is the first among equals."""
        self.take(info, made_s)

    def take(self, info: pb.ServerInfo, made_s: float) -> None:
        limits, load = info.limits, info.load
        before = self.sessions
        self.info = info
        self.made_s = made_s
        self.lost = False
        self.models = {model.name: _Model(model.spatial_factor, _memory(model)) for model in info.models}
        self.places = min(max(limits.max_sessions, 1), _MOST_SESSIONS)
        self.sessions = min(load.sessions + load.queued, 2 * _MOST_SESSIONS)
        for _ in range(min(self.sessions - before, len(self.held))):
            self.let_go()
        self.may_queue = load.queued < limits.max_queued
        self.memory_bytes = load.session_memory_bytes
        self.used_bytes = min(load.session_memory_used_bytes, self.memory_bytes)

    def hold(self, held: _Held) -> None:
        self.held.append(held)
        self.held_bytes += held.num_bytes

    def let_go(self) -> None:
        """Of the place that is held for longest: its session has come, or will not."""
        self.held_bytes -= self.held.popleft().num_bytes

    def restarted(self) -> None:
        """Nothing that was promised there counts any more."""
        self.held.clear()
        self.held_bytes = self.sessions = 0

    @property
    def key(self) -> _Key:
        sessions = self.sessions + len(self.held)
        used = sessions / self.places
        if self.memory_bytes:
            used = max(used, (self.used_bytes + self.held_bytes) / self.memory_bytes)
        return used, sessions, self.named, self.target

    @property
    def serves(self) -> bool:
        """Whether new sessions may go there, going by its last report."""
        return self.info.ready and not self.lost

    def is_gone(self, now_s: float) -> bool:
        return self.lost or now_s - self.made_s > GONE_S

    def needs(self, request: pb.LocateRequest) -> tuple[int, float]:
        """Pixels of a frame, and what the session's state takes; nothing where the size isn't known."""
        model = self.models[request.model]
        area = request.geometry.height * request.geometry.width * model.spatial_factor**2
        return area, min(area * model.state_bytes_per_pixel, _MOST_BYTES)

    def outlook(self, request: pb.LocateRequest, now_s: float) -> int:
        if request.model not in self.models or now_s - self.made_s > GONE_S:
            return _NEVER
        if now_s - self.made_s > FRESH_S:
            return _SILENT
        area, state_bytes = self.needs(request)
        left = self.memory_bytes - self.used_bytes - self.held_bytes
        if area > self.info.limits.max_pixels or (self.memory_bytes and state_bytes > left):
            return _REFUSES
        if self.sessions + len(self.held) < self.places:
            return _FITS
        return _QUEUES if self.may_queue else _REFUSES


def _memory(model: pb.ModelInfo) -> float:
    """Bytes of state a pixel; none where what is said is no number."""
    return model.state_bytes_per_pixel if 0 <= model.state_bytes_per_pixel < math.inf else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A place that was named."""

    until_s: float
    server: _Server
    tenant: str
    num_bytes: int


class Placement:
    """The table. Times are seconds of one monotonic clock."""

    def __init__(self, *, most_held: int = MOST_HELD) -> None:
        """Start without servers; hold `most_held` places."""
        self._most_held = most_held
        self._servers: dict[str, _Server] = {}
        self._order: list[_Key] = []
        """Of the servers to which new sessions may go."""
        self._epochs: dict[int, str] = {}
        """Targets by the epochs that they report: each one's own, and of fronts those of the servers behind them."""
        self._held: deque[_Held] = deque()
        """By time."""
        self._tenants: Counter[tuple[str, str]] = Counter()
        """Places held, by tenant and target."""
        self._num_answers = 0

    def __len__(self) -> int:
        """How many servers are known, those that are silent included."""
        return len(self._servers)

    def report(self, target: str, info: pb.ServerInfo, made_s: float) -> None:
        """Take what the server at `target` said of itself at `made_s`, or just after that.

        A report that is older than the last one counts for nothing, nor does one of an epoch before the last one's,
        until that has been silent for so long that it is gone. Of two targets with the same epoch, one server with
        two addresses, the first is named.
        """
        known = self._servers.get(target)
        if known is not None and not known.lost:
            is_before = info.epoch < known.info.epoch and made_s - known.made_s <= GONE_S
            if is_before or made_s < known.made_s:
                return
        same = self._servers.get(self._epochs.get(info.epoch, target))
        if same is not None and same is not known and not same.is_gone(made_s):
            self.remove(target)
            return
        if known is None:
            known = self._servers[target] = _Server(target, info, made_s)
        else:
            self._unlist(known)
            self._forget_epochs(known)
            if known.info.epoch != info.epoch:
                known.restarted()
            known.take(info, made_s)
        for epoch in (info.epoch, *info.epochs):
            self._epochs[epoch] = target
        self._list(known)

    def lost(self, target: str) -> None:
        """The server at `target` is gone: its process has ended, or nothing listens there. Unknown ones are fine."""
        server = self._servers.get(target)
        if server is not None:
            self._unlist(server)
            server.lost = True

    def remove(self, target: str) -> None:
        """Forget a server; an unknown one is fine."""
        server = self._servers.get(target)
        if server is not None:
            self._unlist(server)
            del self._servers[target]
            self._forget_epochs(server)

    def locate(self, request: pb.LocateRequest, tenant: str, now_s: float) -> pb.LocateResponse:
        """Name a server for a session of `tenant`, and hold its place there; with alternatives.

        With a session's id it is the server whose epoch the id has, as long as that isn't gone, and else one for a new
        session. Whether there is such a session, and whose it is, only that server knows.

        Raises:
            NotFound: no server that is known has this model.
            Unavailable: none of those that have it can be named.
        """
        self._release(now_s)
        request = self._with_model(request)
        owner = self._owner(request.session_id, now_s)
        targets = self._choose(request, tenant, now_s)
        if owner is not None:
            targets = [owner.target, *(target for target in targets if target != owner.target)][:MOST_NAMED]
        elif not targets:
            self._refuse(request.model)
        first = self._servers[targets[0]]
        has_place = first.outlook(request, now_s) == _FITS
        if owner is None:
            self._hold(first, tenant, round(first.needs(request)[1]), now_s)
        return pb.LocateResponse(
            target=first.target,
            epoch=first.info.epoch,
            lease_ms=round(HOLD_S * 1000),
            alternatives=targets[1:],
            has_place=has_place,
        )

    def peek(self, now_s: float) -> list[str]:
        """Where a session might go of which nothing is known; holds no place."""
        self._release(now_s)
        request = self._with_model(pb.LocateRequest())
        return self._choose(request, "", now_s)

    def servers(self, now_s: float) -> list[pb.ServerInfo]:
        """The last reports of those that aren't gone."""
        return [server.info for server in self._servers.values() if not server.is_gone(now_s)]

    def ready_models(self, now_s: float) -> set[str]:
        """Models for which there is a server that new sessions may go to."""
        found: set[str] = set()
        for server in self._servers.values():
            if server.serves and not server.is_gone(now_s):
                found.update(server.models)
        return found

    def _with_model(self, request: pb.LocateRequest) -> pb.LocateRequest:
        """Name the default, that of the server that was known first, where none is named."""
        if request.model:
            return request
        named = pb.LocateRequest()
        named.CopyFrom(request)
        named.model = next((name for server in self._servers.values() for name in server.models), "")
        return named

    def _forget_epochs(self, server: _Server) -> None:
        for epoch in (server.info.epoch, *server.info.epochs):
            if self._epochs.get(epoch) == server.target:
                del self._epochs[epoch]

    def _owner(self, session_id: bytes, now_s: float) -> _Server | None:
        epoch = epoch_of(session_id)
        server = self._servers.get(self._epochs.get(epoch, "")) if epoch is not None else None
        return None if server is None or server.is_gone(now_s) else server

    def _choose(self, request: pb.LocateRequest, tenant: str, now_s: float) -> list[str]:
        best: list[_Key] = []
        rest: list[tuple[int, _Key]] = []
        for key in self._order:
            outlook = self._servers[key[-1]].outlook(request, now_s)
            if outlook == _FITS:
                best.append(key)
                if len(best) == _CHOICES:
                    break
            elif outlook != _NEVER:
                rest.append((outlook, key))
        best.sort(key=lambda key: (key[0], key[1], self._tenants[tenant, key[-1]], key[2]))
        rest.sort()
        return [key[-1] for key in (*best, *(key for _, key in rest))][:MOST_NAMED]

    def _refuse(self, model: str) -> None:
        names = {name: None for server in self._servers.values() for name in server.models}
        if names and model not in names:
            raise NotFound(f"model={model[:80]!r}: the servers have {', '.join(names)}")
        raise Unavailable("no server is ready; try again")

    def _hold(self, server: _Server, tenant: str, num_bytes: int, now_s: float) -> None:
        self._num_answers += 1
        held = _Held(now_s + HOLD_S, server, tenant, num_bytes)
        self._held.append(held)
        self._tenants[tenant, server.target] += 1
        self._unlist(server)
        server.named = self._num_answers
        server.hold(held)
        self._list(server)

    def _release(self, now_s: float) -> None:
        """Let go of the places whose time is over."""
        while self._held and (self._held[0].until_s <= now_s or len(self._held) >= self._most_held):
            held = self._held.popleft()
            who = held.tenant, held.server.target
            self._tenants[who] -= 1
            if not self._tenants[who]:
                del self._tenants[who]
            server = held.server
            if server.held and server.held[0] is held:
                self._unlist(server)
                server.let_go()
                self._list(server)

    def _list(self, server: _Server) -> None:
        """Give a server that new sessions may go to its place in the order."""
        if server.serves and self._servers.get(server.target) is server:
            insort(self._order, server.key)

    def _unlist(self, server: _Server) -> None:
        """Take a server out of the order, before anything of its key changes; one that isn't there is fine."""
        if server.serves and self._servers.get(server.target) is server:
            del self._order[bisect_left(self._order, server.key)]
