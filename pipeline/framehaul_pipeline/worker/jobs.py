"""What the worker's launch thread is given to do, one after the other. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from framehaul_pipeline.device.streams import Event
from framehaul_pipeline.link.messages import OpenSession
from framehaul_pipeline.scheduling.chunks import Chunk
from framehaul_pipeline.worker.launch import Place


@dataclass(frozen=True, slots=True)
class OpenJob:
    """Make a session's state on the device."""

    request: OpenSession

    @property
    def session(self) -> int:
        """Whose it is."""
        return self.request.session


@dataclass(frozen=True, slots=True)
class ChunkJob:
    """Launch a chunk into a slot."""

    chunk: Chunk
    place: Place
    slot: int
    generation: int

    @property
    def session(self) -> int:
        """Whose it is."""
        return self.chunk.session


@dataclass(frozen=True, slots=True)
class ParkJob:
    """Start to copy a session's state to host pages."""

    session: int
    place: Place
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RestoreJob:
    """Start to copy a session's state back to the device."""

    session: int
    place: Place
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PinJob:
    """Make host pages, that `session` may have room on the device."""

    session: int
    num_pages: int


@dataclass(frozen=True, slots=True)
class SettleJob:
    """Nothing else is to do: wait for a copy of state."""

    copied: Event


MoveJob = OpenJob | ParkJob | RestoreJob | PinJob
Job = MoveJob | ChunkJob | SettleJob
