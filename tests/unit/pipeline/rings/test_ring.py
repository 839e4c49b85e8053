import fcntl
import os
import stat
from collections.abc import Iterator

import pytest

from framehaul_pipeline.rings.ring import HOLDER_PLACE, NUM_NOTES, PAGE_BYTES, Ring, RingError, SlotHeader


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create("framehaul-test", num_slots=3, slot_bytes=5000)
    yield ring
    ring.close()


def test_the_file_is_private_sealed_and_nameless(ring: Ring) -> None:
    """Mode 0600, no resizing, nothing in the file system."""
    assert stat.S_IMODE(os.fstat(ring.fd).st_mode) == 0o600
    assert os.fstat(ring.fd).st_nlink == 0
    with pytest.raises(PermissionError):
        os.ftruncate(ring.fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(ring.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_both_mappings_see_the_same_slots(ring: Ring) -> None:
    """What one side writes into a slot the other side reads there, and nowhere else."""
    other = Ring(os.dup(ring.fd), num_slots=3, slot_bytes=5000)
    header = SlotHeader(generation=1, session=2, first_index=3, num_items=4, item_bytes=5)
    with ring.payload(1) as payload:
        payload[:] = bytes(range(250)) * 20
    ring.write_header(1, header)
    assert other.read_header(1) == header
    with other.payload(0) as before, other.payload(1) as payload, other.payload(2) as after:
        assert bytes(payload) == bytes(range(250)) * 20
        assert not any(before)
        assert not any(after)
    other.close()
    other.close()


def test_notes_are_seen_by_the_other_mapping_and_touch_nothing_else(ring: Ring) -> None:
    other = Ring(os.dup(ring.fd), num_slots=3, slot_bytes=5000)
    header = SlotHeader(generation=1, session=2, first_index=3, num_items=4, item_bytes=5)
    ring.write_header(0, header)
    assert other.noted() == frozenset()
    for place in range(NUM_NOTES):
        ring.note(0, place, 7 + place)
        ring.note(2, place, 7)
    assert other.noted() == {7, 8, 9}
    ring.note(0, 1, 0)
    assert other.noted() == {7, 9}
    assert other.num_held() == 2
    ring.note(2, HOLDER_PLACE, 0)
    assert other.num_held() == 1
    assert other.read_header(0) == header
    with other.payload(0) as payload, other.payload(2) as last:
        assert not any(payload)
        assert not any(last)
    other.close()


def test_payloads_start_on_pages(ring: Ring) -> None:
    """Whole pages, so that devices copy at full speed."""
    assert [ring.payload_offset(slot) % PAGE_BYTES for slot in range(3)] == [0, 0, 0]
    assert ring.num_bytes == len(ring.memory) == 3 * (PAGE_BYTES + 2 * PAGE_BYTES)


def test_a_slot_without_header_says_so(ring: Ring) -> None:
    """A reader that is told of a slot nobody filled hears of it."""
    with pytest.raises(RingError, match="slot 0 holds no header"):
        ring.read_header(0)


def test_a_file_of_another_size_is_refused(ring: Ring) -> None:
    """Both sides must mean the same slots."""
    with pytest.raises(RingError, match="must be"):
        Ring(ring.fd, num_slots=4, slot_bytes=5000)


def test_an_unsealed_file_is_refused() -> None:
    """A peer that could cut the file short could kill its reader."""
    fd = os.memfd_create("framehaul-unsealed")
    os.ftruncate(fd, 2 * PAGE_BYTES)
    with pytest.raises(RingError, match="sealed"):
        Ring(fd, num_slots=1, slot_bytes=PAGE_BYTES)
    os.close(fd)


def test_a_failed_creation_closes_the_file() -> None:
    """No descriptor is left when the file can't have its size."""
    with pytest.raises(OSError, match=r"."):
        Ring.create("framehaul-huge", num_slots=1, slot_bytes=1 << 61)
