"""Latents on their way to the worker: the server's side of the ring that it owns. Runs on the server's event loop."""

from __future__ import annotations

from framehaul_pipeline.rings.ring import Ring, SlotHeader
from framehaul_pipeline.rings.slots import SlotTable
from framehaul_pipeline.scheduling.feeder import NextLatent


class Inlet:
    """The inlet ring of one worker, and whose latent is in which slot."""

    def __init__(self, name: str, *, num_slots: int, slot_bytes: int) -> None:
        """Make the ring; the caller closes it."""
        self.ring = Ring.create(name, num_slots=num_slots, slot_bytes=slot_bytes)
        self._slots = SlotTable(self.ring.num_slots)

    @property
    def num_free(self) -> int:
        """Slots that hold no latent."""
        return self._slots.num_free

    def put(self, latent: NextLatent) -> tuple[int, int]:
        """Copy a latent into a free slot; gives the slot and its generation."""
        slot, generation = self._slots.acquire(latent.session)
        num_bytes = len(latent.latent)
        with self.ring.payload(slot) as payload:
            payload[:num_bytes] = latent.latent
        self.ring.write_header(slot, SlotHeader(generation, latent.session, latent.index, 1, num_bytes))
        self._slots.publish(slot, generation)
        return slot, generation

    def give_back(self, slot: int, generation: int) -> int:
        """Free a slot that the worker has read; gives the session whose latent it held.

        Raises:
            SlotError: the worker doesn't hold it.
        """
        return self._slots.give_back(slot, generation)
