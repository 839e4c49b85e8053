"""Places and the queue for them, against a model that sorts everything anew at each step."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from framehaul_pipeline.errors import InvalidInput, Overloaded, Unavailable
from framehaul_server.admission import places
from framehaul_server.admission.places import Admission
from framehaul_server.core.tenants import Tenant

MAX_SESSIONS, MAX_QUEUED, MAX_QUEUED_BYTES = 3, 5, 20
TENANTS = (
    Tenant(name="light", weight=0.5),
    Tenant(name="heavy", weight=2.0, max_waiting_bytes=10),
    Tenant(name="small", max_sessions=1, max_queued=2),
)


@dataclass(eq=False, kw_only=True)
class Claim:
    """What the model knows of a session that is asked for."""

    tenant: Tenant
    priority: int
    asked_ns: int
    num_bytes: int
    request_bytes: int
    place: places.Claim
    told: int | None = None


def firsts(waiting: list[Claim]) -> list[Claim]:
    """The first of each tenant's, the oldest of its highest priority; `waiting` is by arrival."""
    return [
        min((claim for claim in waiting if claim.tenant is tenant), key=lambda claim: (-claim.priority, claim.asked_ns))
        for tenant in {claim.tenant for claim in waiting}
    ]


class Model:
    """Who has a place and who waits, by arrival."""

    def __init__(self) -> None:
        self.paused = False
        self.holding: list[Claim] = []
        self.waiting: list[Claim] = []

    def num_held(self, tenant: Tenant) -> int:
        return sum(claim.tenant is tenant for claim in self.holding)

    def fits(self, claim: Claim) -> bool:
        tenant = claim.tenant
        num_bytes = sum(other.num_bytes for other in self.holding if other.tenant is tenant) + claim.num_bytes
        return (
            len(self.holding) < MAX_SESSIONS
            and (tenant.max_sessions is None or self.num_held(tenant) < tenant.max_sessions)
            and (tenant.max_waiting_bytes is None or num_bytes <= tenant.max_waiting_bytes)
        )

    def may_wait(self, claim: Claim) -> bool:
        same = sum(other.tenant is claim.tenant for other in self.waiting)
        num_bytes = sum(other.request_bytes for other in self.waiting) + claim.request_bytes
        return (
            len(self.waiting) < MAX_QUEUED
            and (claim.tenant.max_queued is None or same < claim.tenant.max_queued)
            and num_bytes <= MAX_QUEUED_BYTES
        )

    def serve(self) -> None:
        """Of those who are first of their tenant and fit, the one who is before the others, again and again."""
        while not self.paused:
            fitting = [claim for claim in firsts(self.waiting) if self.fits(claim)]
            if not fitting:
                return
            best = min(fitting, key=lambda claim: self.rank(claim, self.num_held(claim.tenant)))
            self.waiting.remove(best)
            self.holding.append(best)

    def rank(self, claim: Claim, num_held: int) -> tuple[float, ...]:
        return -claim.priority, num_held / claim.tenant.weight, self.waiting.index(claim)

    def order(self) -> list[Claim]:
        """One after the other, as if each got its place and kept it."""
        found: list[Claim] = []

        def counted(claim: Claim) -> tuple[float, ...]:
            before = sum(other.tenant is claim.tenant for other in found)
            return self.rank(claim, self.num_held(claim.tenant) + before)

        while len(found) < len(self.waiting):
            found.append(min(firsts([claim for claim in self.waiting if claim not in found]), key=counted))
        return found


class AdmissionMachine(RuleBasedStateMachine):
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(MAX_SESSIONS, max_queued=MAX_QUEUED, max_queued_bytes=MAX_QUEUED_BYTES)
        self.model = Model()
        self.closed = False

    @rule(
        target=claims,
        tenant=st.sampled_from(TENANTS),
        priority=st.integers(-1, 1),
        asked_ns=st.integers(-1, 1),
        num_bytes=st.integers(0, 11),
        request_bytes=st.integers(0, 9),
    )
    def ask(self, tenant: Tenant, **asked: int) -> Any:
        if self.closed:
            with pytest.raises(Unavailable):
                self.admission.enter(tenant)
            return multiple()
        # What is refused before the first request is not the matter here.
        place = self.admission.enter(tenant, num_spare=1 << 20)
        claim = Claim(tenant=tenant, place=place, **asked)
        before = [each.place.position for each in self.model.waiting]
        if tenant.max_waiting_bytes is not None and claim.num_bytes > tenant.max_waiting_bytes:
            expected: type[Exception] | None = InvalidInput
        else:
            may_wait = self.model.may_wait(claim)
            self.model.waiting.append(claim)
            self.model.serve()
            expected = None
            if claim in self.model.waiting and not may_wait:
                self.model.waiting.remove(claim)
                expected = Unavailable if self.model.paused else Overloaded
        if expected is None:
            self.admission.ask(place, **asked)
            return claim
        with pytest.raises(expected):
            self.admission.ask(place, **asked)
        self.admission.release(place)
        assert [each.place.position for each in self.model.waiting] == before
        return multiple()

    @rule(claim=consumes(claims))
    def end(self, claim: Claim) -> None:
        """A session ends, or a client leaves the queue, in one step or two."""
        self.admission.release(claim.place)
        for claims in (self.model.holding, self.model.waiting):
            if claim in claims:
                claims.remove(claim)
        self.model.serve()

    @rule(claim=claims)
    def withdraw(self, claim: Claim) -> None:
        """A client that left, before its call has ended; nothing for those that have their place."""
        self.admission.withdraw(claim.place)
        assert claim.place.position is None
        if claim in self.model.waiting:
            self.model.waiting.remove(claim)
            self.model.serve()

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        """No place is given meanwhile; then all those that there are, in order."""
        self.admission.pause("the worker is restarting" if paused else None)
        self.model.paused = paused
        self.model.serve()

    @rule()
    def close(self) -> None:
        self.closed = True
        self.admission.close("the server is draining")
        self.model.waiting.clear()

    @invariant()
    def places_are_as_in_the_model(self) -> None:
        """Never more than allowed, nobody passed over who fits, nobody served out of order."""
        assert [claim.place.held for claim in self.model.holding] == [True] * len(self.model.holding)
        assert not any(claim.place.held for claim in self.model.waiting)
        assert self.admission.num_sessions == len(self.model.holding) <= MAX_SESSIONS
        assert self.admission.num_queued == len(self.model.waiting) <= MAX_QUEUED

    @invariant()
    def positions_are_the_order_and_changes_are_told(self) -> None:
        for position, claim in enumerate(self.model.order(), start=1):
            place = claim.place
            assert place.position == position
            assert place.moved.is_set() or claim.told == position
            place.moved.clear()
            claim.told = position
        assert all(claim.place.position is None for claim in self.model.holding)

    def teardown(self) -> None:
        for claim in [*self.model.holding, *self.model.waiting]:
            self.admission.release(claim.place)
        assert (self.admission.num_sessions, self.admission.num_queued) == (0, 0)


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=40)
