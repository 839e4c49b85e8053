"""Films' frames on their way to the worker: slots that reader processes fill. Runs on the server's event loop."""

from __future__ import annotations

import asyncio

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.rings.slots import SlotTable


class Samples(SlotTable):
    """The ring for the frames of films that are searched, and who waits for a slot of it.

    Earlier queries come first, and none has more than its share, so that one fast film leaves room for others.
    """

    def __init__(self, name: str, config: WorkerConfig) -> None:
        """Make the ring, which is unmapped by `close`."""
        super().__init__(config.num_sample_slots)
        self.ring = Ring.create(name, num_slots=config.num_sample_slots, slot_bytes=config.sample_slot_bytes)
        self._waiting: dict[int, list[asyncio.Future[tuple[int, int]]]] = {}
        self._held: dict[int, int] = {}

    async def take(self, query: int) -> tuple[int, int]:
        """A slot for a reader of this query to fill, and its generation, once there is one.

        Cancellation: takes none.
        """
        turn: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(query, []).append(turn)
        self._assign()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.abandon(*turn.result())
            raise
        finally:
            self._waiting[query] = [each for each in self._waiting.get(query, ()) if each is not turn]
            if not self._waiting[query]:
                del self._waiting[query]

    def _free_slot(self, slot: int) -> None:
        super()._free_slot(slot)
        query = self._owners[slot]
        self._held[query] -= 1
        if not self._held[query]:
            del self._held[query]
        self._assign()

    def _assign(self) -> None:
        share = max(2, self.num_slots // max(1, len(self._held.keys() | self._waiting.keys())))
        for query in sorted(self._waiting):
            for turn in self._waiting[query]:
                if not self.num_free or self._held.get(query, 0) >= share:
                    break
                if not turn.done():
                    self._held[query] = self._held.get(query, 0) + 1
                    turn.set_result(self.acquire(query))

    def close(self) -> None:
        """Unmap the ring; those who still wait are cancelled."""
        for turns in list(self._waiting.values()):
            for turn in turns:
                turn.cancel()
        self.ring.close()
