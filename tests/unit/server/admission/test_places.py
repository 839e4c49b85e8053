import asyncio
from typing import Any

import pytest

from framehaul_pipeline.errors import InvalidInput, Lack, Overloaded, Unavailable
from framehaul_server.admission.places import Admission, Claim
from framehaul_server.core.tenants import EVERYONE, Tenant


def claimed(admission: Admission, tenant: Tenant = EVERYONE, **asked: Any) -> Claim:
    claim = admission.enter(tenant)
    try:
        admission.ask(claim, **asked)
    except BaseException:
        admission.release(claim)
        raise
    return claim


def positions(*claims: Claim) -> list[int | None]:
    return [claim.position for claim in claims]


def test_without_a_queue_the_one_too_many_is_refused_with_a_time_to_wait() -> None:
    """Before its first request is read."""
    admission = Admission(2)
    first = admission.enter(EVERYONE)
    admission.enter(EVERYONE)
    with pytest.raises(Overloaded, match=r"^all 2 sessions of this server are in use$") as refusal:
        admission.enter(EVERYONE)
    assert refusal.value.retry_after_s > 0
    admission.release(first)
    admission.ask(admission.enter(EVERYONE))
    assert admission.num_sessions == 1


def test_without_a_queue_a_call_that_only_seemed_to_resume_is_refused_at_its_first_request() -> None:
    admission = Admission(1)
    held = claimed(admission)
    spare = admission.enter(EVERYONE, num_spare=1)
    with pytest.raises(Overloaded, match=r"^all 1 sessions of this server are in use$"):
        admission.ask(spare)
    assert (held.held, spare.held, admission.num_queued) == (True, False, 0)


def test_releasing_twice_or_without_a_place_changes_nothing() -> None:
    admission = Admission(1)
    admission.release(admission.enter(EVERYONE))
    place = claimed(admission)
    admission.release(place)
    admission.release(place)
    admission.release(admission.enter(EVERYONE))
    assert (admission.num_sessions, place.held, admission.idle.is_set()) == (0, False, True)


def test_a_place_that_comes_free_goes_to_the_next_and_the_others_move_up() -> None:
    admission = Admission(1, max_queued=3, max_queued_bytes=100)
    held = claimed(admission)
    waiting = [claimed(admission) for _ in range(3)]
    assert positions(*waiting) == [1, 2, 3]
    assert admission.num_queued == 3
    for place in waiting:
        place.moved.clear()
    admission.release(held)
    assert waiting[0].held
    assert positions(*waiting) == [None, 1, 2]
    assert all(place.moved.is_set() for place in waiting)
    assert (admission.num_sessions, admission.num_queued) == (1, 2)


def test_a_full_queue_refuses_and_says_what_is_full() -> None:
    admission = Admission(1, max_queued=2, max_queued_bytes=10)
    held = claimed(admission)
    first = claimed(admission, request_bytes=8)
    with pytest.raises(Overloaded, match=r"this server are in use, and its queue holds 8 of 10 bytes .* room for 3 mo"):
        claimed(admission, request_bytes=3)
    claimed(admission, request_bytes=2)
    place = admission.enter(EVERYONE, num_spare=1)
    with pytest.raises(Overloaded, match="this server are in use, and all 2 places of its queue") as refusal:
        admission.ask(place)
    assert refusal.value.retry_after_s > 0
    with pytest.raises(Overloaded, match="this server are in use, and all 2 places of its queue"):
        admission.enter(EVERYONE)
    admission.release(place)
    admission.withdraw(first)
    assert admission.num_queued == 1
    admission.release(held)
    assert admission.num_queued == 0


def test_a_request_too_large_for_the_queue_is_served_while_there_is_a_place() -> None:
    """And neither counts nor moves anybody when it is refused."""
    admission = Admission(2, max_queued=5, max_queued_bytes=10)
    assert claimed(admission, request_bytes=11).held
    assert claimed(admission).held
    waiting = claimed(admission)
    waiting.moved.clear()
    with pytest.raises(Overloaded, match="no room for 11 more"):
        claimed(admission, priority=9, request_bytes=11)
    assert waiting.position == 1
    assert not waiting.moved.is_set()


def test_a_pause_keeps_places_that_are_free_for_those_who_wait() -> None:
    """In their order; the queue's limits count as ever, and who finds no room in it may try elsewhere."""
    admission = Admission(3, max_queued=2, max_queued_bytes=10)
    held = claimed(admission)
    admission.pause("the worker is restarting")
    late, early = claimed(admission, request_bytes=5), claimed(admission, priority=1)
    assert positions(early, late) == [1, 2]
    with pytest.raises(Unavailable, match="restarting"):
        claimed(admission)
    admission.release(late)
    with pytest.raises(Unavailable, match="restarting"):
        claimed(admission, request_bytes=11)
    late = claimed(admission)
    admission.release(held)
    assert (held.held, early.held, late.held, admission.num_sessions) == (False, False, False, 0)
    admission.pause(None)
    assert (early.held, late.held, admission.num_queued) == (True, True, 0)
    assert claimed(admission).held


def test_closing_refuses_new_places_and_those_that_wait_and_keeps_the_taken_ones() -> None:
    admission = Admission(1, max_queued=2)
    held, waiting, silent = claimed(admission), claimed(admission), admission.enter(EVERYONE)
    admission.close("the server is draining")
    with pytest.raises(Unavailable, match="draining"):
        admission.ask(silent)
    with pytest.raises(Unavailable, match="draining"):
        admission.enter(EVERYONE)
    assert (admission.num_sessions, admission.num_queued, waiting.position) == (1, 0, None)
    admission.release(held)
    assert not waiting.held


@pytest.mark.asyncio
async def test_a_place_is_waited_for_until_it_is_held_or_refused() -> None:
    admission = Admission(1, max_queued=2)
    held, first, second = claimed(admission), claimed(admission), claimed(admission)
    await admission.wait(held)
    waiting = [asyncio.ensure_future(admission.wait(place)) for place in (first, second)]
    await asyncio.sleep(0)
    assert not waiting[0].done()
    admission.release(held)
    await asyncio.wait_for(waiting[0], 60)
    admission.close("the server is draining")
    with pytest.raises(Unavailable, match="draining"):
        await asyncio.wait_for(waiting[1], 60)


def test_idle_is_set_exactly_while_there_is_no_call() -> None:
    """One that waits, or has said nothing yet, counts."""
    admission = Admission(1, max_queued=1)
    assert admission.idle.is_set()
    first, second = claimed(admission), claimed(admission)
    assert not admission.idle.is_set()
    admission.release(first)
    assert not admission.idle.is_set()
    admission.release(second)
    assert admission.idle.is_set()
    admission.enter(EVERYONE)
    assert not admission.idle.is_set()


def test_a_tenant_has_its_own_number_of_sessions() -> None:
    """Refused by the name of the limit that was met; other tenants don't notice."""
    admission = Admission(3)
    film, ads = Tenant(name="film", max_sessions=1), Tenant(name="ads")
    held = claimed(admission, film)
    with pytest.raises(Overloaded, match=r"^all 1 sessions of tenant film are in use$"):
        admission.enter(film)
    claimed(admission, ads)
    claimed(admission, ads)
    with pytest.raises(Overloaded, match="all 3 sessions of this server"):
        admission.enter(ads)
    admission.release(held)
    assert claimed(admission, film).held
    assert admission.num_sessions == 3


def test_a_tenant_at_its_limit_holds_up_nobody_else() -> None:
    """Its own wait, at the head of the queue, until one of its sessions ends."""
    admission = Admission(3, max_queued=9)
    film, ads = Tenant(name="film", max_sessions=1), Tenant(name="ads")
    held, *waiting = [claimed(admission, film, priority=9) for _ in range(3)]
    other = claimed(admission, ads)
    assert other.held
    assert positions(*waiting) == [1, 2]
    claimed(admission, ads)
    late = claimed(admission, ads)
    assert positions(*waiting, late) == [1, 2, 3]
    admission.release(other)
    assert late.held
    assert positions(*waiting) == [1, 2]
    admission.release(held)
    assert waiting[0].held


def test_a_tenant_has_its_own_number_of_places_in_the_queue() -> None:
    admission = Admission(1, max_queued=9)
    film, ads = Tenant(name="film", max_sessions=4, max_queued=1), Tenant(name="ads", max_queued=99)
    claimed(admission, ads)
    claimed(admission, film)
    with pytest.raises(Overloaded, match="this server are in use, and all 1 places of tenant film in its queue"):
        claimed(admission, film)
    assert claimed(admission, ads).position == 2
    for _ in range(4):
        admission.enter(film)
    with pytest.raises(Overloaded, match="all 4 sessions of tenant film are in use, and all 1 places of its queue"):
        admission.enter(film)


def test_a_tenants_waiting_bytes_are_bounded_over_its_sessions() -> None:
    """Counted by what sessions may hold, so that the bound needs no watching; they come back with the place."""
    admission = Admission(9)
    film = Tenant(name="film", max_waiting_bytes=100)
    first = claimed(admission, film, num_bytes=60)
    with pytest.raises(Overloaded, match="may hold 41 waiting bytes, and 60 of the 100 of tenant film"):
        claimed(admission, film, num_bytes=41)
    claimed(admission, film, num_bytes=40)
    admission.release(first)
    claimed(admission, film, num_bytes=60)
    claimed(admission, num_bytes=1 << 40)
    with pytest.raises(InvalidInput, match="open=101 waiting bytes: must be at most 100 for tenant film"):
        claimed(admission, film, num_bytes=101)


def test_waiting_bytes_are_waited_for_and_smaller_sessions_of_the_tenant_do_not_get_by() -> None:
    """Unless they have priority; other tenants do."""
    admission = Admission(9, max_queued=2)
    film = Tenant(name="film", max_waiting_bytes=100)
    first = claimed(admission, film, num_bytes=60)
    large, small = claimed(admission, film, num_bytes=50), claimed(admission, film, num_bytes=10)
    assert positions(large, small) == [1, 2]
    assert claimed(admission, num_bytes=50).held
    urgent = claimed(admission, film, num_bytes=5, priority=1)
    assert urgent.held
    with pytest.raises(Overloaded, match="other sessions of tenant film are before it, and all 2 places"):
        claimed(admission, film, num_bytes=5)
    admission.release(first)
    assert large.held
    assert small.held


def test_whoever_was_behind_one_that_did_not_fit_is_served_when_that_one_leaves() -> None:
    admission = Admission(9, max_queued=2)
    film = Tenant(name="film", max_waiting_bytes=100)
    claimed(admission, film, num_bytes=60)
    large, small = claimed(admission, film, num_bytes=50), claimed(admission, film, num_bytes=10)
    admission.withdraw(large)
    assert small.held


@pytest.mark.parametrize(
    ("max_sessions", "tenant", "lack"),
    [
        (1, Tenant(name="film"), Lack.PLACES),
        (9, Tenant(name="film", max_sessions=1), Lack.TENANT_PLACES),
        (9, Tenant(name="film", max_waiting_bytes=10), Lack.TENANT_BYTES),
    ],
)
@pytest.mark.asyncio
async def test_a_refusal_says_what_there_is_none_of(max_sessions: int, tenant: Tenant, lack: Lack) -> None:
    """For the metrics."""
    admission = Admission(max_sessions)

    def ask() -> None:
        admission.ask(admission.enter(tenant), num_bytes=6)

    ask()
    with pytest.raises(Overloaded) as refused:
        ask()
    assert refused.value.lack is lack
