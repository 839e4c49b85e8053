import pytest

from framehaul_pipeline.rings.slots import LeaseTable, SlotError, SlotTable


def test_slots_are_reused_oldest_first_and_generations_count_uses() -> None:
    """The slot that has been free for longest is taken next, and every use has a generation of its own."""
    table = SlotTable(2)
    assert [table.acquire(), table.acquire()] == [(0, 1), (1, 1)]
    table.publish(1, 1)
    table.give_back(1, 1)
    table.abandon(0, 1)
    assert table.num_free == table.num_slots == 2
    assert [table.acquire(), table.acquire()] == [(1, 2), (0, 2)]


def test_acquire_without_a_free_slot_is_an_error() -> None:
    """Asking first is the caller's duty."""
    table = SlotTable(1)
    table.acquire()
    with pytest.raises(SlotError, match="no slot is free"):
        table.acquire()


@pytest.mark.parametrize(
    ("slot", "generation", "message"),
    [(2, 1, r"slot=2: must be 0\.\.1"), (-1, 1, "slot=-1"), (0, 7, "generation 7"), (1, 0, "is not published")],
)
def test_a_stale_or_unknown_slot_is_refused(slot: int, generation: int, message: str) -> None:
    """A message about another use of the slot changes nothing."""
    table = SlotTable(2)
    table.publish(*table.acquire())
    with pytest.raises(SlotError, match=message):
        table.give_back(slot, generation)
    assert table.num_free == 1


def test_each_step_needs_the_step_before() -> None:
    """A slot can't be returned before it is published, nor published or abandoned twice."""
    table = SlotTable(1)
    slot, generation = table.acquire()
    with pytest.raises(SlotError, match="it is filling"):
        table.give_back(slot, generation)
    table.publish(slot, generation)
    for step in (table.publish, table.abandon):
        with pytest.raises(SlotError, match="it is published"):
            step(slot, generation)


def test_a_lease_is_taken_once_and_only_for_a_newer_generation() -> None:
    """A late message of an earlier use can't be taken for the present one."""
    leases = LeaseTable(1)
    leases.lease(0, 3)
    with pytest.raises(SlotError, match="is leased"):
        leases.lease(0, 4)
    assert leases.num_leased == 1
    assert leases.give_back(0) == 3
    with pytest.raises(SlotError, match="was seen"):
        leases.lease(0, 3)
    with pytest.raises(SlotError, match="not leased"):
        leases.give_back(0)
    with pytest.raises(SlotError, match="slot=1"):
        leases.lease(1, 1)
    assert leases.num_leased == 0
