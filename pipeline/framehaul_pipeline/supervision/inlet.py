"""Latents on their way to the worker: the server's side of the ring that it owns. Runs on the server's event loop."""

from __future__ import annotations

from framehaul_pipeline.rings.ring import Ring, SlotHeader
from framehaul_pipeline.rings.slots import SlotTable
from framehaul_pipeline.scheduling.feeder import NextLatent


class Inlet(SlotTable):
    """The inlet ring of one worker, and whose latent is in which slot."""

    def __init__(self, name: str, *, num_slots: int, slot_bytes: int) -> None:
        """Make the ring; the caller closes it."""
        super().__init__(num_slots)
        self.ring = Ring.create(name, num_slots=num_slots, slot_bytes=slot_bytes)

    def put(self, latent: NextLatent) -> tuple[int, int]:
        """Copy a latent into a free slot; gives the slot and its generation."""
        slot, generation = self.acquire(latent.session)
        num_bytes = len(latent.latent)
        with self.ring.payload(slot) as payload:
            payload[:num_bytes] = latent.latent
        self.ring.write_header(slot, SlotHeader(generation, latent.session, latent.index, 1, num_bytes))
        self.publish(slot, generation)
        return slot, generation
