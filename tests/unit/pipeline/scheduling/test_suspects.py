"""Who may begin, by what the ring says of whose work the worker is at."""

from collections.abc import Iterator

import pytest

from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.suspects import Suspects
from framehaul_pipeline.worker.held_slots import HeldSlots, Note


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create("framehaul-suspects", num_slots=3, slot_bytes=8)
    yield ring
    ring.close()


def may_begin(suspects: Suspects) -> list[int]:
    return [session for session in (1, 2, 3, 4) if suspects.may_begin(session)]


def test_a_suspect_begins_when_nobody_else_is_at_work(ring: Ring) -> None:
    """1 and 2 are suspects. Beside its own work a session may always begin."""
    slots, suspects = HeldSlots(ring), Suspects(ring)
    suspects.open(1, 0)
    suspects.open(2, 7)
    suspects.open(3, None)
    assert may_begin(suspects) == [1, 2, 3, 4]
    held = slots.acquire(3)
    assert may_begin(suspects) == [3, 4]
    slots.publish(*held)
    assert may_begin(suspects) == [3, 4]
    slots.give_back(*held)
    held = slots.acquire(1)
    assert may_begin(suspects) == [1]
    with slots.at_work(Note.LAUNCH, 1):
        slots.abandon(*held)
        assert may_begin(suspects) == [1]
    with slots.at_work(Note.CONTROL, 4):
        assert may_begin(suspects) == [3, 4]


def test_a_session_is_suspect_until_a_new_frame_is_published(ring: Ring) -> None:
    """Frames of the first time, which are decoded again, come before; frames of others don't help."""
    slots, suspects = HeldSlots(ring), Suspects(ring)
    suspects.open(1, 8)
    slots.acquire(1)
    suspects.published(1, 4)
    suspects.published(1, 8)
    suspects.published(2, 12)
    assert may_begin(suspects) == [1]
    suspects.published(1, 12)
    assert may_begin(suspects) == [1, 2, 3, 4]
    suspects.published(1, 16)


def test_the_clips_first_frame_is_new_too(ring: Ring) -> None:
    slots, suspects = HeldSlots(ring), Suspects(ring)
    suspects.open(1, 0)
    slots.acquire(1)
    suspects.published(1, 0)
    assert may_begin(suspects) == [1]
    suspects.published(1, 1)
    assert may_begin(suspects) == [1, 2, 3, 4]


def test_a_closed_session_is_no_suspect(ring: Ring) -> None:
    slots, suspects = HeldSlots(ring), Suspects(ring)
    suspects.open(1, 0)
    suspects.open(2, 0)
    slots.acquire(1)
    suspects.close(1)
    suspects.close(1)
    assert may_begin(suspects) == [1, 3, 4]
