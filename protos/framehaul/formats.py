"""What latents and frames are made of on the wire; read by the client, the server and the worker.

Imports neither numpy nor torch. Element types are spelled as numpy's array interface spells them: byte order, kind,
bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from enum import StrEnum
from fractions import Fraction
from typing import Any, Final, Self

SLOT_BYTES_PER_PIXEL: Final = 3
"""What frame slots have room for at the server's largest size; frames of a wider format must be smaller."""

FPS_ALLOWED: Final = "a number over 0 and up to 1000, such as 24, 29.97 or 24000/1001"


class LatentDtype(StrEnum):
    """Number format of latents: its name, and the type of one element."""

    FLOAT16 = "float16", "<f2"
    BFLOAT16 = "bfloat16", "<u2"
    """numpy has no bfloat16: its bit patterns are held as uint16."""
    FLOAT32 = "float32", "<f4"

    array_type: str

    def __new__(cls, name: str, *row: str) -> Self:
        """Make a member of its row; later calls, with the name alone, find it."""
        member = str.__new__(cls, name)
        member._value_ = name
        (member.array_type,) = row
        return member

    @property
    def itemsize_bytes(self) -> int:
        """Bytes of one element."""
        return _itemsize_bytes(self.array_type)


def _interleaved(height: int, width: int) -> tuple[int, ...]:
    return (height, width, 3)


def _planes(height: int, width: int) -> tuple[int, ...]:
    return (3, height, width)


def _planes_420(height: int, width: int) -> tuple[int, ...]:
    return (height * 3 // 2, width)


class PixelFormat(StrEnum):
    """How a frame's samples lie in memory: FFmpeg's name, the type of one sample, the shape of a frame's array.

    The last says whether two by two pixels share their chroma: height and width must then be even.
    """

    RGB24 = "rgb24", "|u1", _interleaved, False
    """`[H, W, 3] uint8`, full range."""
    YUV420P = "yuv420p", "|u1", _planes_420, True
    """`[H * 3 / 2, W] uint8`: planes Y, U, V without padding, BT.709 limited range, chroma sited in the centre."""
    YUV420P10LE = "yuv420p10le", "<u2", _planes_420, True
    """`[H * 3 / 2, W] uint16`: the same in 10 bits, 64..940 and 64..960."""
    GBRPF16LE = "gbrpf16le", "<f2", _planes, False
    """`[3, H, W] float16`: planes G, B, R, full range 0..1; `frame[[2, 0, 1]]` is R, G, B."""

    dtype: str
    shape: Callable[[int, int], tuple[int, ...]]
    """Shape of the array of one frame of `height` x `width` pixels."""
    subsampled: bool

    def __new__(cls, name: str, *row: Any) -> Self:
        """Make a member of its row; later calls, with the name alone, find it."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.dtype, member.shape, member.subsampled = row
        return member

    def frame_bytes(self, height: int, width: int) -> int:
        """Bytes of one frame of `height` x `width` pixels."""
        return math.prod(self.shape(height, width)) * _itemsize_bytes(self.dtype)

    def max_pixels(self, slot_pixels: int) -> int:
        """Pixels of the largest frame where slots have room for `slot_pixels`."""
        return min(slot_pixels, slot_pixels * SLOT_BYTES_PER_PIXEL * 4 // self.frame_bytes(2, 2))


def checked_fps(fps: Fraction) -> Fraction:
    """Frames a second as latents' files and videos may have them, with the broadcast rates' own denominator at most.

    Raises:
        ValueError: they aren't `FPS_ALLOWED`.
    """
    rounded = fps.limit_denominator(1001)
    if not 0 < rounded <= 1000:
        raise ValueError(f"fps={fps}: must be {FPS_ALLOWED}")
    return rounded


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of `WIDTHxHEIGHT`, each 1..99999 pixels.

    Raises:
        ValueError: it is something else.
    """
    sides = re.fullmatch(r"0*([1-9][0-9]{0,4})x0*([1-9][0-9]{0,4})", text, re.IGNORECASE)
    if sides is None:
        raise ValueError(f"{text!r}: must be WIDTHxHEIGHT in pixels, like 832x480")
    return int(sides[1]), int(sides[2])


def _itemsize_bytes(array_type: str) -> int:
    return int(array_type[2:])
