import pytest

from framehaul_pipeline.errors import Overloaded, Unavailable
from framehaul_server.admission import Admission


def test_places_are_counted_and_the_one_too_many_is_refused_with_a_time_to_wait() -> None:
    admission = Admission(2)
    places = [admission.place() for _ in range(3)]
    places[0].take()
    places[1].take()
    with pytest.raises(Overloaded, match="all 2 sessions") as refusal:
        places[2].take()
    assert refusal.value.retry_after_s > 0
    places[0].release()
    places[2].take()
    assert admission.num_sessions == 2


def test_releasing_twice_or_without_a_place_changes_nothing() -> None:
    admission = Admission(1)
    place = admission.place()
    place.release()
    place.take()
    place.release()
    place.release()
    assert admission.num_sessions == 0


def test_draining_refuses_new_places_and_keeps_the_taken_ones() -> None:
    admission = Admission(2)
    place = admission.place()
    place.take()
    admission.drain()
    with pytest.raises(Unavailable, match="draining"):
        admission.place().take()
    assert admission.num_sessions == 1


def test_idle_is_set_exactly_while_no_place_is_held() -> None:
    admission = Admission(2)
    assert admission.idle.is_set()
    first, second = admission.place(), admission.place()
    first.take()
    second.take()
    assert not admission.idle.is_set()
    first.release()
    assert not admission.idle.is_set()
    second.release()
    assert admission.idle.is_set()
