"""Whose request is read: few at a time, since gRPC holds all that has come of one that is asked for.

gRPC tells neither how long a request will be nor how much of it is there, so one that isn't whole may be a slow upload
or a client that says nothing. Whoever comes is read at once or after a moment. While others wait for their turn, those
whose requests take long give way, but for the half of each tenant's that has been at it for longest, so that slow
uploads end.
Nothing of a request is read before its turn. Runs on the event loop, knows no gRPC.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from framehaul_pipeline.errors import Lack, Overloaded
from framehaul_server.errors import ClientSilent

_LEAST: Final = 2
"""At a time, whatever the limits: one that stays, and one that gives way."""
_MAX_WAITING: Final = 64
"""Each may have sent what HTTP/2 lets it send unasked, 64 KiB."""
_RETRY_AFTER_S: Final = 1.0

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Reader:
    """On whose behalf a request is read."""

    tenant: str
    connection: str
    most: int | None = None
    """Requests of the tenant that may be read at a time; None: as many as of all."""


@dataclass(slots=True, eq=False)
class _Request:
    reader: Reader
    timeout: asyncio.Timeout
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    started_s: float = 0.0
    sent_away: Overloaded | None = None


class Reading:
    """Gives each request its turn, by tenants, by connections, the newest first."""

    def __init__(self, most: int, *, grace_s: float, timeout_s: float) -> None:
        """Let `most` be read at a time, but never fewer than two.

        Args:
            most: of all tenants together.
            grace_s: for which nobody has to give way.
            timeout_s: for a request to come, its turn included.
        """
        self._most = max(most, _LEAST)
        self._grace_s = grace_s
        self._timeout_s = timeout_s
        self._reading: dict[_Request, None] = {}
        """By their start."""
        self._waiting: dict[_Request, None] = {}
        """By arrival."""
        self._tenants: Counter[str] = Counter()
        """Of those that are read, like the connections'."""
        self._connections: Counter[str] = Counter()
        self._next_look: asyncio.TimerHandle | None = None

    async def read(self, reader: Reader, read: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Await `read()` once it is this request's turn.

        Cancellation: passes through to `read`; the turn is over.

        Raises:
            ClientSilent: the request didn't come in time.
            Overloaded: it gave way to others.
        """
        request = _Request(reader, asyncio.timeout(self._timeout_s))
        try:
            async with request.timeout:
                self._waiting[request] = None
                self._look()
                await request.turn.wait()
                return await read()
        except TimeoutError:
            raise request.sent_away or ClientSilent(f"no request came within {self._timeout_s:g} s") from None
        finally:
            self._forget(request)
            self._look()

    def _look(self) -> None:
        """Give turns to all who can have one now; look again when somebody has to give way."""
        while (request := self._next()) is not None:
            del self._waiting[request]
            self._reading[request] = None
            self._tenants[request.reader.tenant] += 1
            self._connections[request.reader.connection] += 1
            request.started_s = _now_s()
            request.turn.set()
        while len(self._waiting) > _MAX_WAITING:
            self._send_away(max(self._waiting, key=self._load), f"{_MAX_WAITING} others wait to be read")
        self._look_again()

    def _next(self) -> _Request | None:
        """Of the waiting ones whose tenants and connections have least read, the newest that can have its turn."""
        for request in sorted(reversed(self._waiting), key=self._load):
            if self._is_room(request):
                return request
            who_yields = self._who_yields(request)
            if who_yields is not None:
                self._send_away(who_yields, f"it was not whole after {self._grace_s:g} s, and others wait to be read")
                return request
        return None

    def _is_room(self, request: _Request) -> bool:
        return len(self._reading) < self._most and not self._has_all_of_its_own(request.reader)

    def _has_all_of_its_own(self, reader: Reader) -> bool:
        return reader.most is not None and self._tenants[reader.tenant] >= max(reader.most, _LEAST)

    def _who_yields(self, request: _Request) -> _Request | None:
        """Who gives its turn to this one: of those whose tenant and connection have most read, the newest."""
        since_s = _now_s() - self._grace_s
        older: Counter[str] = Counter()
        found: list[_Request] = []
        for each in self._reading:
            tenant = each.reader.tenant
            older[tenant] += 1
            is_of_older_half = older[tenant] <= self._tenants[tenant] // 2
            if not is_of_older_half and each.started_s <= since_s and self._may_take_from(request.reader, each.reader):
                found.append(each)
        return max(found, key=lambda each: (self._load(each), each.started_s), default=None)

    def _may_take_from(self, reader: Reader, other: Reader) -> bool:
        if reader.tenant == other.tenant:
            return self._connections[reader.connection] <= self._connections[other.connection]
        return self._tenants[reader.tenant] < self._tenants[other.tenant] and not self._has_all_of_its_own(reader)

    def _load(self, request: _Request) -> tuple[int, int]:
        return self._tenants[request.reader.tenant], self._connections[request.reader.connection]

    def _send_away(self, request: _Request, reason: str) -> None:
        request.sent_away = Overloaded(f"the request gave way: {reason}", Lack.READING, retry_after_s=_RETRY_AFTER_S)
        if not request.timeout.expired():
            request.timeout.reschedule(_now_s())
        self._forget(request)

    def _forget(self, request: _Request) -> None:
        self._waiting.pop(request, None)
        if request in self._reading:
            del self._reading[request]
            self._tenants[request.reader.tenant] -= 1
            self._connections[request.reader.connection] -= 1
            self._tenants, self._connections = +self._tenants, +self._connections

    def _look_again(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if self._waiting:
            graces = [end_s for each in self._reading if (end_s := each.started_s + self._grace_s) > _now_s()]
            if graces:
                self._next_look = asyncio.get_running_loop().call_at(min(graces), self._look)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
