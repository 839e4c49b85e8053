"""What arrives: frames as typed values; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from framehaul.formats import PixelFormat

Pixels = npt.NDArray[Any]
"""Samples in the format's own type; see `PixelFormat`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLayout:
    """Size and pixel format of every frame of a session, in pixels."""

    pixel_format: PixelFormat
    height: int
    width: int

    def __post_init__(self) -> None:
        """Check the size.

        Raises:
            ValueError: a size below 1, or an odd one with subsampled chroma.
        """
        for name, value in (("height", self.height), ("width", self.width)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be 1 or more")
            if self.pixel_format.subsampled and value % 2:
                raise ValueError(f"{name}={value}: must be even with {self.pixel_format}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one frame's array."""
        return self.pixel_format.shape(self.height, self.width)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.pixel_format.frame_bytes(self.height, self.width)


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Consecutive frames that arrived in one message.

    Attributes:
        first_frame: index of the first one in its clip.
        frames: `[N, ...]`, each in the shape and type that `PixelFormat` says, read-only. It lies in the received
            message, which stays in memory as long as any part of this array does: copy what is kept for long.
    """

    first_frame: int
    frames: Pixels

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.frames)
