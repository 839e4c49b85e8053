"""Who may touch which slot of a ring: the owner's table and the reader's, as pure values.

The owner (the worker for frames, the server for latents) holds the free list and fills slots; the reader leases what
was published and gives it back by message. A slot's *generation* counts its uses, so that a message about an earlier
use can't be taken for the present one. Neither table knows memory, sockets or threads.
"""

from __future__ import annotations

from collections import deque
from enum import Enum


class SlotState(Enum):
    """`FREE -> FILLING -> PUBLISHED -> FREE`; a filled slot that nobody needs goes straight back to FREE."""

    FREE = "free"
    FILLING = "filling"
    PUBLISHED = "published"


class SlotError(Exception):
    """A message about a slot that doesn't fit the slot's state: one side has a fault."""


class SlotTable:
    """The owner's view: a free list, and a state and a generation for each slot."""

    def __init__(self, num_slots: int) -> None:
        """Start with every slot free, at generation 0."""
        self._states = [SlotState.FREE] * num_slots
        self._generations = [0] * num_slots
        self._owners = [0] * num_slots
        self._free = deque(range(num_slots))

    @property
    def num_slots(self) -> int:
        """Slots in all."""
        return len(self._states)

    @property
    def num_free(self) -> int:
        """Slots that `acquire` can still hand out."""
        return len(self._free)

    def acquire(self, owner: int = 0) -> tuple[int, int]:
        """Take the slot that has been free for longest, to fill it; it is `owner`'s until it is free again.

        Returns:
            The slot and its new generation.

        Raises:
            SlotError: no slot is free; ask `num_free` first.
        """
        if not self._free:
            raise SlotError("no slot is free")
        slot = self._free.popleft()
        self._states[slot] = SlotState.FILLING
        self._owners[slot] = owner
        self._generations[slot] += 1
        return slot, self._generations[slot]

    def publish(self, slot: int, generation: int) -> None:
        """Hand a filled slot to the reader.

        Raises:
            SlotError: the slot isn't being filled in this generation.
        """
        self._expect(slot, generation, SlotState.FILLING)
        self._states[slot] = SlotState.PUBLISHED

    def abandon(self, slot: int, generation: int) -> None:
        """Free a slot that was acquired and won't be published.

        Raises:
            SlotError: the slot isn't being filled in this generation.
        """
        self._expect(slot, generation, SlotState.FILLING)
        self._free_slot(slot)

    def give_back(self, slot: int, generation: int) -> int:
        """Free a published slot: its reader is done. Gives its owner.

        Raises:
            SlotError: the slot isn't published in this generation.
        """
        self._expect(slot, generation, SlotState.PUBLISHED)
        self._free_slot(slot)
        return self._owners[slot]

    def _free_slot(self, slot: int) -> None:
        self._states[slot] = SlotState.FREE
        self._free.append(slot)

    def _expect(self, slot: int, generation: int, state: SlotState) -> None:
        if not 0 <= slot < len(self._states):
            raise SlotError(f"slot={slot}: must be 0..{len(self._states) - 1}")
        if self._generations[slot] != generation or self._states[slot] is not state:
            raise SlotError(
                f"slot {slot} generation {generation} is not {state.value}: "
                f"it is {self._states[slot].value} in generation {self._generations[slot]}"
            )


class LeaseTable:
    """The reader's view: which slots it holds, and the newest generation it has seen of each."""

    def __init__(self, num_slots: int) -> None:
        """Start with no lease."""
        self._generations = [0] * num_slots
        self._leased = [False] * num_slots
        self.num_leased = 0
        """Leases not yet returned."""

    def lease(self, slot: int, generation: int) -> None:
        """Take the right to read a published slot.

        Raises:
            SlotError: no such slot, it is leased already, or its generation isn't newer than the last one seen.
        """
        if not 0 <= slot < len(self._leased):
            raise SlotError(f"slot={slot}: must be 0..{len(self._leased) - 1}")
        if self._leased[slot] or generation <= self._generations[slot]:
            raise SlotError(
                f"slot {slot} generation {generation} can't be leased: generation {self._generations[slot]} "
                f"{'is leased' if self._leased[slot] else 'was seen'}"
            )
        self._generations[slot] = generation
        self._leased[slot] = True
        self.num_leased += 1

    def give_back(self, slot: int) -> int:
        """End a lease.

        Returns:
            The generation to name to the owner.

        Raises:
            SlotError: the slot isn't leased.
        """
        if not self._leased[slot]:
            raise SlotError(f"slot {slot} is not leased")
        self._leased[slot] = False
        self.num_leased -= 1
        return self._generations[slot]
