"""How many calls and sessions there may be, in all and for each tenant; who gets a place, and who waits for one.

A call is counted when it comes in, its session has a place once it was asked for and there is one, and waits in the
queue for it until then. Whatever changes that, one synchronous step gives free places to those who are next and tells
all others where they stand. Pure but for events; runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from framehaul_pipeline.errors import InvalidInput, Overloaded, Unavailable
from framehaul_server.core.queue_order import AdmissionQueue
from framehaul_server.core.tenants import EVERYONE, Tenant

_RETRY_AFTER_S: Final = 1.0


@dataclass(slots=True)
class _Use:
    """What one tenant holds."""

    num_calls: int = 0
    """Calls, and sessions without one."""
    num_sessions: int = 0
    num_bytes: int = 0


class Admission:
    """Counts calls, the places that sessions hold, and the bytes that may wait for each tenant's."""

    def __init__(self, max_sessions: int, *, max_queued: int = 0, max_queued_bytes: int = 0) -> None:
        """Allow `max_sessions` places, and `max_queued` that wait for one with `max_queued_bytes` of requests."""
        self._max_sessions = max_sessions
        self._queue: AdmissionQueue[Place] = AdmissionQueue(max_queued, max_queued_bytes)
        self._uses: defaultdict[str, _Use] = defaultdict(_Use)
        """By tenants' names; who holds nothing is not in it."""
        self._num_calls = 0
        self.num_sessions = 0
        """Places that are held, those of detached sessions included."""
        self._closed: str | None = None
        """Why nobody is let in any more."""
        self._paused: str | None = None
        """Why nobody gets a place for now."""
        self.idle = asyncio.Event()
        """Set while there is no call and no session."""
        self.idle.set()

    @property
    def num_queued(self) -> int:
        """Sessions that wait for a place."""
        return len(self._queue)

    def check_open(self) -> None:
        """Refuse new work once that is over.

        Raises:
            Unavailable: the server drains.
        """
        if self._closed is not None:
            raise Unavailable(self._closed)

    def place(self) -> Place:
        """A place, not yet asked for."""
        return Place(self)

    def close(self, reason: str) -> None:
        """Refuse every new session from now on, and those that wait."""
        self._closed = reason
        for place in list(self._queue):
            self._queue.leave(place)
            place._settle(refusal=reason)

    def pause(self, reason: str | None) -> None:
        """Give no place for now, for this `reason`: who asks for one waits. None goes on."""
        self._paused = reason
        self._serve()
        self._tell()

    # What places do

    def _enter(self, tenant: Tenant, num_spare: int) -> None:
        self.check_open()
        if self._num_calls >= self._max_sessions + self._queue.max_length + num_spare:
            raise _overloaded(self._all_in_use(), self._queue_full(self._queue.max_length))
        most, max_queued = tenant.max_sessions, self._queue.max_length_for(tenant)
        if most is not None and self._use(tenant).num_calls >= most + max_queued + num_spare:
            raise _overloaded(_all_of_tenant_in_use(tenant), self._queue_full(max_queued))
        self._uses[tenant.name].num_calls += 1
        self._num_calls += 1
        self.idle.clear()

    def _claim(self, place: Place) -> None:
        self.check_open()
        tenant, most = place.tenant, place.tenant.max_waiting_bytes
        if most is not None and place.num_bytes > most:
            raise InvalidInput("open", f"{place.num_bytes} waiting bytes", f"at most {most} for tenant {tenant.name}")
        full = self._queue.obstacle(place)
        self._queue.join(place)
        self._serve()
        if full is not None and not place.held:
            self._queue.leave(place)
            if self._paused is not None:
                raise Unavailable(self._paused)
            raise _overloaded(
                self._obstacle(place) or f"other sessions of tenant {tenant.name} are before it",
                full if self._queue.max_length else None,
            )
        self._tell()

    def _withdraw(self, place: Place) -> None:
        if place in self._queue:
            self._queue.leave(place)
            self._serve()
            self._tell()

    def _leave(self, place: Place) -> None:
        use = self._uses[place.tenant.name]
        use.num_calls -= 1
        self._num_calls -= 1
        if place.held:
            use.num_sessions -= 1
            use.num_bytes -= place.num_bytes
            self.num_sessions -= 1
        elif place in self._queue:
            self._queue.leave(place)
        if use.num_calls == 0:
            del self._uses[place.tenant.name]
        if self._num_calls == 0:
            self.idle.set()
        self._serve()
        self._tell()

    # Who is next

    def _serve(self) -> None:
        """Give free places to those who are next."""
        while (place := self._next()) is not None:
            self._queue.leave(place)
            use = self._uses[place.tenant.name]
            use.num_sessions += 1
            use.num_bytes += place.num_bytes
            self.num_sessions += 1
            place._settle()

    def _tell(self) -> None:
        """Let all who wait know where they stand."""
        for position, place in enumerate(self._order(), start=1):
            place._move(position)

    def _next(self) -> Place | None:
        """The first in order, but for tenants whose own first one doesn't fit their limits."""
        if self._paused is not None or self.num_sessions >= self._max_sessions:
            return None
        passed_over: set[str] = set()
        for place in self._order():
            if place.tenant.name in passed_over:
                continue
            if self._obstacle(place) is None:
                return place
            passed_over.add(place.tenant.name)
        return None

    def _order(self) -> list[Place]:
        return self._queue.order(lambda tenant: self._use(tenant).num_sessions)

    def _obstacle(self, place: Place) -> str | None:
        """Why a session can't have its place now; None when it can."""
        tenant, use = place.tenant, self._use(place.tenant)
        if self.num_sessions >= self._max_sessions:
            return self._all_in_use()
        if tenant.max_sessions is not None and use.num_sessions >= tenant.max_sessions:
            return _all_of_tenant_in_use(tenant)
        if tenant.max_waiting_bytes is not None and use.num_bytes + place.num_bytes > tenant.max_waiting_bytes:
            return (
                f"this session may hold {place.num_bytes} waiting bytes, "
                f"and {use.num_bytes} of the {tenant.max_waiting_bytes} of tenant {tenant.name} are taken"
            )
        return None

    def _use(self, tenant: Tenant) -> _Use:
        return self._uses.get(tenant.name) or _Use()

    def _all_in_use(self) -> str:
        return f"all {self._max_sessions} sessions of this server are in use"

    def _queue_full(self, length: int) -> str | None:
        return f"all {length} places of its queue" if length else None


def _all_of_tenant_in_use(tenant: Tenant) -> str:
    return f"all {tenant.max_sessions} sessions of tenant {tenant.name} are in use"


def _overloaded(obstacle: str, full: str | None) -> Overloaded:
    return Overloaded(obstacle if full is None else f"{obstacle}, and {full}", retry_after_s=_RETRY_AFTER_S)


class Place:
    """A call's claim to a session: counted from `enter` until `release`."""

    __slots__ = (
        "_admission",
        "_entered",
        "_refusal",
        "_settled",
        "held",
        "moved",
        "num_bytes",
        "position",
        "priority",
        "request_bytes",
        "tenant",
    )

    def __init__(self, admission: Admission) -> None:
        """Start without a claim."""
        self._admission = admission
        self._entered = False
        self._settled = asyncio.Event()
        """Set once the place is held, or refused."""
        self._refusal: str | None = None
        self.tenant: Tenant = EVERYONE
        """Whose claim it is, from `enter` on."""
        self.priority = 0
        self.num_bytes = 0
        """What may wait in the server for the session."""
        self.request_bytes = 0
        self.held = False
        """The session has its place."""
        self.position: int | None = None
        """In the queue, 1 is next; None when it doesn't wait there."""
        self.moved = asyncio.Event()
        """Set at each change of the position."""

    def enter(self, tenant: Tenant, *, num_spare: int = 0) -> None:
        """Count a call of `tenant`, or, up to `num_spare` more, one that may resume a session.

        Only a call's first request tells which it is; `claim` checks again for a new session.

        Raises:
            Overloaded: there are as many as may have a place or wait for one.
            Unavailable: the server drains.
        """
        self._admission._enter(tenant, num_spare)
        self._entered, self.tenant = True, tenant

    def claim(self, *, priority: int = 0, num_bytes: int = 0, request_bytes: int = 0) -> None:
        """Ask for a new session's place; once, after `enter`. It is `held` then, or has a `position` in the queue.

        Args:
            priority: of the session.
            num_bytes: what may wait for it, counted until `release`.
            request_bytes: of its first request, kept while it is queued.

        Raises:
            InvalidInput: more may wait than the tenant may ever have.
            Overloaded: it would have to wait, and the queue is full.
            Unavailable: the server drains; or no place is given for now, and the queue is full.
        """
        self.priority, self.num_bytes, self.request_bytes = priority, num_bytes, request_bytes
        self._admission._claim(self)

    async def settled(self) -> None:
        """Wait for the place.

        Cancellation: the claim stands; `withdraw` or `release` it.

        Raises:
            Unavailable: the server drains.
        """
        await self._settled.wait()
        if self._refusal is not None:
            raise Unavailable(self._refusal)

    def withdraw(self) -> None:
        """Leave the queue; for one that isn't in it, nothing changes."""
        self._admission._withdraw(self)
        self._move(None)

    def release(self) -> None:
        """Give everything back; without a claim, or twice, is fine."""
        if self._entered:
            self._entered = False
            self._admission._leave(self)
            self._move(None)
            self.held = False

    def _move(self, position: int | None) -> None:
        if position != self.position:
            self.position = position
            self.moved.set()

    def _settle(self, *, refusal: str | None = None) -> None:
        self.held, self._refusal = refusal is None, refusal
        self._move(None)
        self._settled.set()
