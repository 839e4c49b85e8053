"""How many calls and sessions there may be, in all and for each tenant; who gets a place, and who waits for one.

A call is counted once its first request has come. Its session has a place once it was asked for and there is one, and
waits in the queue for it until then. Whatever changes that, one synchronous step gives free places to those who are
next and tells all others where they stand. Pure but for events; runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from framehaul_pipeline.errors import InvalidInput, Lack, Overloaded, Unavailable
from framehaul_server.core.queue_order import AdmissionQueue, Waiting
from framehaul_server.core.tenants import Tenant

_RETRY_AFTER_S: Final = 1.0
Obstacle = tuple[Lack, str]
"""What there is none of, and the sentence that says so."""


@dataclass(slots=True, eq=False)
class Claim(Waiting):
    """A call's claim to a place for its session: a value that `Admission` alone changes."""

    num_bytes: int = 0
    """What may wait in the server for the session."""
    held: bool = False
    """The session has its place."""
    position: int | None = None
    """In the queue, 1 is next; None when it doesn't wait there."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at each change of the position."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the place is held, or refused."""
    refusal: str | None = None
    """Why it was refused in the queue."""
    released: bool = False

    def _move(self, position: int | None) -> None:
        if position != self.position:
            self.position = position
            self.moved.set()


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
        self._queue: AdmissionQueue[Claim] = AdmissionQueue(max_queued, max_queued_bytes)
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

    def close(self, reason: str) -> None:
        """Refuse every new session from now on, and those that wait."""
        self._closed = reason
        for claim in list(self._queue):
            self._queue.leave(claim)
            claim.refusal = reason
            claim._move(None)
            claim.settled.set()

    def pause(self, reason: str | None) -> None:
        """Give no place for now, for this `reason`: who asks for one waits. None goes on."""
        self._paused = reason
        self._assign()

    def check_room(self, tenant: Tenant, *, num_spare: int = 0) -> None:
        """Refuse a call of `tenant` for which there can't be a place, before its first request is read.

        Only that request tells whether the call resumes a session, as up to `num_spare` may.

        Raises:
            Overloaded: there are as many as may have a place or wait for one.
            Unavailable: the server drains.
        """
        self.check_open()
        if self._num_calls >= self._max_sessions + self._queue.max_length + num_spare:
            raise _overloaded(self._all_in_use(), _queue_full(self._queue.max_length))
        most, max_queued = tenant.max_sessions, self._queue.max_length_for(tenant)
        if most is not None and self._use(tenant).num_calls >= most + max_queued + num_spare:
            raise _overloaded(_all_of_tenant_in_use(tenant), _queue_full(max_queued))

    def enter(self, tenant: Tenant, *, num_spare: int = 0) -> Claim:
        """Count a call whose first request has come, until `release`; `ask` checks again for a new session.

        Raises:
            Overloaded: as `check_room`, like everything else.
            Unavailable: likewise.
        """
        self.check_room(tenant, num_spare=num_spare)
        self._uses[tenant.name].num_calls += 1
        self._num_calls += 1
        self.idle.clear()
        return Claim(tenant)

    def ask(
        self, claim: Claim, *, priority: int = 0, asked_ns: int = 0, num_bytes: int = 0, request_bytes: int = 0
    ) -> None:
        """Ask for a new session's place, once. It is `held` then, or has a `position` in the queue.

        Args:
            claim: of the call.
            priority: of the session.
            asked_ns: when its client first asked for it, here or elsewhere; the earliest of its tenant comes first.
            num_bytes: what may wait for it, counted until `release`.
            request_bytes: of its first request, kept while it is queued.

        Raises:
            InvalidInput: more may wait than the tenant may ever have.
            Overloaded: it would have to wait, and the queue is full.
            Unavailable: the server drains; or no place is given for now, and the queue is full.
        """
        self.check_open()
        tenant, most = claim.tenant, claim.tenant.max_waiting_bytes
        if most is not None and num_bytes > most:
            raise InvalidInput("open", f"{num_bytes} waiting bytes", f"at most {most} for tenant {tenant.name}")
        claim.priority, claim.asked_ns = priority, asked_ns
        claim.num_bytes, claim.request_bytes = num_bytes, request_bytes
        full = self._queue.obstacle(claim)
        self._queue.join(claim)
        if full is not None and self._next() is not claim:
            self._queue.leave(claim)
            if self._paused is not None:
                raise Unavailable(self._paused)
            raise _overloaded(
                self._obstacle(claim) or (Lack.TENANT_PLACES, f"other sessions of tenant {tenant.name} are before it"),
                full if self._queue.max_length else None,
            )
        self._assign()

    async def wait(self, claim: Claim) -> None:
        """Wait until a claim that was asked for is held.

        Cancellation: leaves the queue at once.

        Raises:
            Unavailable: the server drains.
        """
        try:
            await claim.settled.wait()
        finally:
            self.withdraw(claim)
        if claim.refusal is not None:
            raise Unavailable(claim.refusal)

    def withdraw(self, claim: Claim) -> None:
        """Leave the queue; for one that isn't in it, nothing changes."""
        if claim in self._queue:
            self._queue.leave(claim)
            claim._move(None)
            self._assign()

    def release(self, claim: Claim) -> None:
        """Give everything back; twice is fine."""
        if claim.released:
            return
        claim.released = True
        self.withdraw(claim)
        use = self._uses[claim.tenant.name]
        use.num_calls -= 1
        self._num_calls -= 1
        if claim.held:
            claim.held = False
            use.num_sessions -= 1
            use.num_bytes -= claim.num_bytes
            self.num_sessions -= 1
        if use.num_calls == 0:
            del self._uses[claim.tenant.name]
        if self._num_calls == 0:
            self.idle.set()
        self._assign()

    def _assign(self) -> None:
        """Give free places to those who are next, and let all others know where they stand."""
        while (claim := self._next()) is not None:
            self._queue.leave(claim)
            use = self._uses[claim.tenant.name]
            use.num_sessions += 1
            use.num_bytes += claim.num_bytes
            self.num_sessions += 1
            claim.held = True
            claim._move(None)
            claim.settled.set()
        for position, claim in enumerate(self._order(), start=1):
            claim._move(position)

    def _next(self) -> Claim | None:
        """The first in order, but for tenants whose own first one doesn't fit their limits."""
        if self._paused is not None or self.num_sessions >= self._max_sessions:
            return None
        passed_over: set[str] = set()
        for claim in self._order():
            if claim.tenant.name in passed_over:
                continue
            if self._obstacle(claim) is None:
                return claim
            passed_over.add(claim.tenant.name)
        return None

    def _order(self) -> list[Claim]:
        return self._queue.order(lambda tenant: self._use(tenant).num_sessions)

    def _obstacle(self, claim: Claim) -> Obstacle | None:
        """Why a session can't have its place now; None when it can."""
        tenant, use = claim.tenant, self._use(claim.tenant)
        if self.num_sessions >= self._max_sessions:
            return self._all_in_use()
        if tenant.max_sessions is not None and use.num_sessions >= tenant.max_sessions:
            return _all_of_tenant_in_use(tenant)
        if tenant.max_waiting_bytes is not None and use.num_bytes + claim.num_bytes > tenant.max_waiting_bytes:
            return Lack.TENANT_BYTES, (
                f"this session may hold {claim.num_bytes} waiting bytes, "
                f"and {use.num_bytes} of the {tenant.max_waiting_bytes} of tenant {tenant.name} are taken"
            )
        return None

    def _use(self, tenant: Tenant) -> _Use:
        return self._uses.get(tenant.name) or _Use()

    def _all_in_use(self) -> Obstacle:
        return Lack.PLACES, f"all {self._max_sessions} sessions of this server are in use"


def _all_of_tenant_in_use(tenant: Tenant) -> Obstacle:
    return Lack.TENANT_PLACES, f"all {tenant.max_sessions} sessions of tenant {tenant.name} are in use"


def _queue_full(length: int) -> str | None:
    return f"all {length} places of its queue" if length else None


def _overloaded(obstacle: Obstacle, full: str | None) -> Overloaded:
    lack, reason = obstacle
    return Overloaded(reason if full is None else f"{reason}, and {full}", lack, retry_after_s=_RETRY_AFTER_S)
