"""How long a chunk may take before its worker counts as hung: learnt from the chunks before it. Pure.

A limit is far above what a chunk takes, since killing a worker that only had a slow moment costs every session of it,
and far below what a client would wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from framehaul.formats import PixelFormat
from framehaul_pipeline.link.messages import Opening
from framehaul_pipeline.spec import Geometry

SLOWER: Final = 20
"""A chunk may take this many times as long as those of its shape do."""
FIRST_SLOWER: Final = 12
"""The first two chunks of a shape may take this many times `chunk_timeout_s`: kernels are compiled and chosen then."""
_NEWEST_WEIGHT: Final = 0.25
_MAX_SHAPES: Final = 256


@dataclass(frozen=True, slots=True)
class ChunkShape:
    """What decides how long a chunk takes."""

    model: str
    geometry: Geometry
    pixel_format: PixelFormat
    num_latents: int

    @classmethod
    def of(cls, opening: Opening, num_latents: int) -> ChunkShape:
        """The shape of a session's chunk of `num_latents`."""
        return cls(opening.model, opening.geometry, opening.pixel_format, num_latents)


@dataclass(frozen=True, slots=True)
class BatchShape:
    """That of all batches of films' frames that one network has: few, and as large as it wants them."""

    mapped: bool = False
    """By the one that says where people look."""


class ChunkLimits:
    """The limits of one worker's chunks."""

    def __init__(self, chunk_timeout_s: float) -> None:
        """No limit is ever below `chunk_timeout_s`."""
        self._chunk_timeout_s = chunk_timeout_s
        self._typical_ns: dict[ChunkShape | BatchShape, float | None] = {}
        """None: one chunk was seen, and it says nothing yet. Oldest shape first."""

    def observe(self, shape: ChunkShape | BatchShape, decode_ns: int) -> None:
        """Learn from a chunk that took `decode_ns` from its launch to the end of its copy."""
        if shape not in self._typical_ns:
            if len(self._typical_ns) == _MAX_SHAPES:
                del self._typical_ns[next(iter(self._typical_ns))]
            self._typical_ns[shape] = None
            return
        typical_ns = self._typical_ns[shape]
        if typical_ns is None:
            typical_ns = float(decode_ns)
        self._typical_ns[shape] = typical_ns + _NEWEST_WEIGHT * (decode_ns - typical_ns)

    def limit_s(self, shape: ChunkShape | BatchShape | None) -> float:
        """How long a chunk of `shape` may take; None: of a shape that isn't known."""
        typical_ns = self._typical_ns.get(shape) if shape is not None else None
        if typical_ns is None:
            return FIRST_SLOWER * self._chunk_timeout_s
        return max(self._chunk_timeout_s, SLOWER * typical_ns / 1e9)
