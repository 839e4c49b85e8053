"""What the worker's launch thread is given to do, one after the other. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from framehaul_pipeline.device.streams import Event
from framehaul_pipeline.scheduling.chunks import Chunk
from framehaul_pipeline.scheduling.memory import Move
from framehaul_pipeline.worker.parking import Place


@dataclass(frozen=True, slots=True)
class ChunkJob:
    """Launch a chunk into a slot."""

    chunk: Chunk
    place: Place
    slot: int
    generation: int
    slot_wait_ns: int = 0
    """For which no slot was free before this one."""

    @property
    def session(self) -> int:
        """Whose it is."""
        return self.chunk.session


@dataclass(frozen=True, slots=True)
class MoveJob:
    """Begin what `SessionMemory` wants next."""

    move: Move
    place: Place
    """Of the move's session."""

    @property
    def session(self) -> int:
        """Whose it is."""
        return self.move.session


@dataclass(frozen=True, slots=True)
class SettleJob:
    """Nothing else is to do: wait for a copy of state."""

    copied: Event


Job = MoveJob | ChunkJob | SettleJob
