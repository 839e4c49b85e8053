"""The slot tables of both sides as a state machine: no slot is ever in two hands."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from framehaul_pipeline.rings.slots import LeaseTable, SlotTable

NUM_SLOTS = 3


class Slots(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(NUM_SLOTS)
        self.leases = LeaseTable(NUM_SLOTS)
        self.filling: list[tuple[int, int]] = []
        self.published: list[tuple[int, int]] = []  # messages to the reader, in order
        self.leased: list[int] = []
        self.returned: list[tuple[int, int]] = []  # messages to the owner, in order

    @precondition(lambda self: self.table.num_free)
    @rule()
    def acquire(self) -> None:
        slot, generation = self.table.acquire()
        assert slot not in self._in_hands()
        self.filling.append((slot, generation))

    @precondition(lambda self: self.filling)
    @rule(keep=st.booleans(), choice=st.integers(0))
    def filled(self, keep: bool, choice: int) -> None:
        slot = self.filling.pop(choice % len(self.filling))
        if keep:
            self.table.publish(*slot)
            self.published.append(slot)
        else:
            self.table.abandon(*slot)

    @precondition(lambda self: self.published)
    @rule()
    def lease(self) -> None:
        slot, generation = self.published.pop(0)
        self.leases.lease(slot, generation)
        self.leased.append(slot)

    @precondition(lambda self: self.leased)
    @rule(choice=st.integers(0))
    def release(self, choice: int) -> None:
        slot = self.leased.pop(choice % len(self.leased))
        self.returned.append((slot, self.leases.give_back(slot)))

    @precondition(lambda self: self.returned)
    @rule()
    def give_back(self) -> None:
        self.table.give_back(*self.returned.pop(0))

    def _in_hands(self) -> list[int]:
        return [*(slot for slot, _ in self.filling + self.published + self.returned), *self.leased]

    @invariant()
    def every_slot_is_in_one_place(self) -> None:
        assert len(set(self._in_hands())) == len(self._in_hands())
        assert self.table.num_free + len(self._in_hands()) == NUM_SLOTS
        assert self.leases.num_leased == len(self.leased)


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=100, stateful_step_count=50)
