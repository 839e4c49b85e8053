"""What arrives: frames as typed values; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from framehaul.v1 import frames_pb2 as pb

Pixels = npt.NDArray[Any]
"""Samples in the format's own type; see `PixelFormat`."""


class PixelFormat(StrEnum):
    """How a frame's samples lie in memory, by the names that FFmpeg has for them."""

    RGB24 = "rgb24"
    """`[H, W, 3] uint8`, full range."""
    YUV420P = "yuv420p"
    """`[H * 3 / 2, W] uint8`: planes Y, U, V without padding, BT.709 limited range, chroma sited in the centre."""
    YUV420P10LE = "yuv420p10le"
    """`[H * 3 / 2, W] uint16`: the same in 10 bits, 64..940 and 64..960."""
    GBRPF16LE = "gbrpf16le"
    """`[3, H, W] float16`: planes G, B, R, full range 0..1; `frame[[2, 0, 1]]` is R, G, B."""

    @property
    def subsampled(self) -> bool:
        """Whether two by two pixels share their chroma: height and width must be even."""
        return self in (PixelFormat.YUV420P, PixelFormat.YUV420P10LE)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one sample, little-endian."""
        return _DTYPES[self]


_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    PixelFormat.RGB24: np.dtype("u1"),
    PixelFormat.YUV420P: np.dtype("u1"),
    PixelFormat.YUV420P10LE: np.dtype("<u2"),
    PixelFormat.GBRPF16LE: np.dtype("<f2"),
}

PIXEL_FORMATS: Final = {
    PixelFormat.RGB24: pb.PIXEL_FORMAT_RGB24,
    PixelFormat.YUV420P: pb.PIXEL_FORMAT_YUV420P,
    PixelFormat.YUV420P10LE: pb.PIXEL_FORMAT_YUV420P10LE,
    PixelFormat.GBRPF16LE: pb.PIXEL_FORMAT_GBRPF16LE,
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
        if self.pixel_format is PixelFormat.RGB24:
            return (self.height, self.width, 3)
        if self.pixel_format is PixelFormat.GBRPF16LE:
            return (3, self.height, self.width)
        return (self.height * 3 // 2, self.width)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return math.prod(self.shape) * self.pixel_format.dtype.itemsize


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
