"""What arrives: frames as typed values; pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from framehaul.v1 import frames_pb2 as pb

Pixels = npt.NDArray[np.uint8]


class PixelFormat(StrEnum):
    """How a frame's samples lie in memory, by the names that FFmpeg has for them."""

    RGB24 = "rgb24"
    """`[H, W, 3] uint8`, full range."""
    YUV420P = "yuv420p"
    """`[H * 3 / 2, W] uint8`: planes Y, U, V without padding, BT.709 limited range, chroma sited in the centre."""


PIXEL_FORMATS: Final = {
    PixelFormat.RGB24: pb.PIXEL_FORMAT_RGB24,
    PixelFormat.YUV420P: pb.PIXEL_FORMAT_YUV420P,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLayout:
    """Size and pixel format of every frame of a session, in pixels."""

    pixel_format: PixelFormat
    height: int
    width: int

    def __post_init__(self) -> None:
        """Check the size.

        Raises:
            ValueError: a size below 1, or an odd one with `yuv420p`.
        """
        for name, value in (("height", self.height), ("width", self.width)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be 1 or more")
            if self.pixel_format is PixelFormat.YUV420P and value % 2:
                raise ValueError(f"{name}={value}: must be even with yuv420p")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one frame's array."""
        if self.pixel_format is PixelFormat.RGB24:
            return (self.height, self.width, 3)
        return (self.height * 3 // 2, self.width)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        if self.pixel_format is PixelFormat.RGB24:
            return self.height * self.width * 3
        return self.height * self.width * 3 // 2


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Consecutive frames that arrived in one message.

    Attributes:
        first_frame: index of the first one in its clip.
        frames: `[N, H, W, 3]` (rgb24) or `[N, H * 3 / 2, W]` (yuv420p), uint8, read-only. It lies in the received
            message, which stays in memory as long as any part of this array does: copy what is kept for long.
    """

    first_frame: int
    frames: Pixels

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.frames)
