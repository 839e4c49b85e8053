import pytest

from framehaul_pipeline.errors import InvalidInput, Overloaded, Unavailable
from framehaul_server.admission import Admission
from framehaul_server.tenants import EVERYONE, Tenant


def test_places_are_counted_and_the_one_too_many_is_refused_with_a_time_to_wait() -> None:
    admission = Admission(2)
    places = [admission.place() for _ in range(3)]
    places[0].take(EVERYONE)
    places[1].take(EVERYONE)
    with pytest.raises(Overloaded, match="all 2 sessions") as refusal:
        places[2].take(EVERYONE)
    assert refusal.value.retry_after_s > 0
    places[0].release()
    places[2].take(EVERYONE)
    assert admission.num_sessions == 2


def test_releasing_twice_or_without_a_place_changes_nothing() -> None:
    admission = Admission(1)
    place = admission.place()
    place.release()
    place.take(EVERYONE)
    place.release()
    place.release()
    assert admission.num_sessions == 0


def test_draining_refuses_new_places_and_keeps_the_taken_ones() -> None:
    admission = Admission(2)
    place = admission.place()
    place.take(EVERYONE)
    admission.drain()
    with pytest.raises(Unavailable, match="draining"):
        admission.place().take(EVERYONE)
    assert admission.num_sessions == 1


def test_idle_is_set_exactly_while_no_place_is_held() -> None:
    admission = Admission(2)
    assert admission.idle.is_set()
    first, second = admission.place(), admission.place()
    first.take(EVERYONE)
    second.take(EVERYONE)
    assert not admission.idle.is_set()
    first.release()
    assert not admission.idle.is_set()
    second.release()
    assert admission.idle.is_set()


def test_a_tenant_has_its_own_number_of_sessions() -> None:
    """Refused by the name of the limit that was met; other tenants don't notice."""
    admission = Admission(3)
    film, ads = Tenant(name="film", max_sessions=1), Tenant(name="ads")
    held, second, third = admission.place(), admission.place(), admission.place()
    held.take(film)
    with pytest.raises(Overloaded, match="all 1 sessions of tenant film"):
        second.take(film)
    second.take(ads)
    third.take(ads)
    with pytest.raises(Overloaded, match="all 3 sessions of this server"):
        admission.place().take(ads)
    held.release()
    admission.place().take(film)
    assert admission.num_sessions == 3


def test_a_tenants_waiting_bytes_are_bounded_over_its_sessions() -> None:
    """Counted by what sessions may hold, so that the bound needs no watching; they come back with the place."""
    admission = Admission(9)
    film = Tenant(name="film", max_waiting_bytes=100)
    first, second, free = (admission.place() for _ in range(3))
    for place in (first, second, free):
        place.take(film)
    first.reserve(60)
    with pytest.raises(Overloaded, match="may hold 41 waiting bytes, and 60 of the 100 of tenant film"):
        second.reserve(41)
    second.reserve(40)
    first.release()
    free.reserve(60)
    place = admission.place()
    place.take(EVERYONE)
    place.reserve(1 << 40)
    first.take(film)
    with pytest.raises(InvalidInput, match="open=101 waiting bytes: must be at most 100 for tenant film"):
        first.reserve(101)
