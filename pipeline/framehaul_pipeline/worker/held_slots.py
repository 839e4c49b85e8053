"""The worker's frame slots, and notes in the ring of whose work the worker is at: they outlive its process.

The server reads them when the worker has died (`Ring.noted`): who isn't written down had no part in it. A session is
written down from a chunk's launch until its slot is free again, and while a thread does something else for it. Pure
but for the ring's memory; the worker calls it under its lock, `at_work` aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from framehaul_pipeline.rings.ring import HOLDER_PLACE, Ring
from framehaul_pipeline.rings.slots import SlotTable


class Note(IntEnum):
    """The places of `Ring.note`; a thread's is in the first slot's page."""

    SLOT = HOLDER_PLACE
    LAUNCH = 1
    CONTROL = 2


class HeldSlots(SlotTable):
    """The table of the ring's slots, which says in the ring who holds one."""

    def __init__(self, ring: Ring) -> None:
        """Start with every slot free."""
        super().__init__(ring.num_slots)
        self._ring = ring

    def acquire(self, owner: int = 0) -> tuple[int, int]:
        """See `SlotTable`; the owner is a session."""
        slot, generation = super().acquire(owner)
        self._ring.note(slot, Note.SLOT, owner)
        return slot, generation

    def _free_slot(self, slot: int) -> None:
        super()._free_slot(slot)
        self._ring.note(slot, Note.SLOT, 0)

    @contextmanager
    def at_work(self, thread: Note, session: int) -> Iterator[None]:
        """Write down that `thread` works for `session`; after an error, which ends the process, it stays so."""
        self._ring.note(0, thread, session)
        yield
        self._ring.note(0, thread, 0)
