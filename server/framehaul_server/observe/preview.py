"""Small pictures of what sessions decode: made in a thread, one at a time, and only while somebody looks.

Holds one response of one session, while its picture is made, and the pictures: a few kB each. Decoded frames are taken
from responses, which the session has anyway; no slot of a ring is held for longer. The rest runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from framehaul import wire
from framehaul.formats import PixelFormat
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.core.packing import Outgoing
from framehaul_server.core.session_view import Look

MOST_SESSIONS: Final = 64
"""Those with the lowest numbers have pictures."""
SIDE: Final = 160
"""Of a picture: its longer one, in pixels."""
_INTERVAL_S: Final = 0.9
"""Between two of a session; a little less than between two looks."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Picture:
    jpeg: bytes
    made_s: float
    next_frame: int
    """The frame before this one is on it."""


class Previews:
    """The newest picture of each session."""

    def __init__(self, show: Callable[[int, Look], None]) -> None:
        """`show` lets somebody look at the session with a number."""
        self._show = show
        self._num_watching = 0
        self._pictures: dict[int, _Picture] = {}
        self._wanted: deque[int] = deque()
        """Sessions that are asked next."""
        self._making: asyncio.Task[None] | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Make pictures meanwhile; there are none once nobody looks."""
        self._num_watching += 1
        try:
            yield
        finally:
            self._num_watching -= 1
            if not self._num_watching:
                self._pictures.clear()
                self._wanted.clear()

    def refresh(self, numbers: Sequence[int]) -> None:
        """Ask these sessions, which are all that there are, for newer frames."""
        for gone in self._pictures.keys() - set(numbers):
            del self._pictures[gone]
        if self._num_watching:
            self._wanted += [number for number in sorted(numbers)[:MOST_SESSIONS] if number not in self._wanted]
            self._ask()

    def version(self, number: int) -> int | None:
        """Which picture a session has; None: none."""
        picture = self._pictures.get(number)
        return None if picture is None else picture.next_frame

    def jpeg(self, number: int) -> bytes | None:
        """A session's picture."""
        picture = self._pictures.get(number)
        return None if picture is None else picture.jpeg

    def _ask(self) -> None:
        while self._wanted and self._making is None:
            self._show(self._wanted.popleft(), self._look)

    def _look(self, number: int, request: OpenRequest, outgoing: Outgoing) -> bool:
        if not self._num_watching:
            return True
        known = self._pictures.get(number)
        next_frame = outgoing.first_frame + outgoing.num_frames
        is_new = known is None or (known.next_frame != next_frame and time.monotonic() - known.made_s >= _INTERVAL_S)
        if self._making is not None or not is_new:
            return False
        self._making = asyncio.create_task(self._make(number, request, outgoing.message, next_frame))
        return True

    async def _make(self, number: int, request: OpenRequest, message: bytes, next_frame: int) -> None:
        height, width = request.frame_size
        try:
            jpeg = await asyncio.to_thread(_last_frame, message, request.opening.pixel_format, height, width)
            if self._num_watching:
                self._pictures[number] = _Picture(jpeg, time.monotonic(), next_frame)
        except Exception:
            _log.exception("no preview of a session")  # its frames are none of its client's doing
        finally:
            self._making = None
        self._ask()


def _last_frame(message: bytes, pixel_format: PixelFormat, height: int, width: int) -> bytes:
    payload = wire.split_response(message).payload
    return thumbnail(payload[-pixel_format.frame_bytes(height, width) :], pixel_format, height, width)


def thumbnail(frame: memoryview | bytes, pixel_format: PixelFormat, height: int, width: int) -> bytes:
    """A small JPEG of one frame, of `SIDE` pixels at most and in the frame's proportions."""
    pixels = np.frombuffer(frame, pixel_format.dtype).reshape(pixel_format.shape(height, width))
    name = "yuv420p" if pixel_format.subsampled else "rgb24"
    if pixel_format is PixelFormat.YUV420P10LE:
        pixels = (pixels >> 2).astype(np.uint8)
    elif pixel_format is PixelFormat.GBRPF16LE:
        step = max(1, max(height, width) // (2 * SIDE))
        thinned = pixels[[2, 0, 1], ::step, ::step].astype(np.float32)
        pixels = np.ascontiguousarray(
            (np.nan_to_num(thinned).clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
        )
    scale = min(1.0, SIDE / max(height, width))
    small = av.VideoFrame.from_ndarray(pixels, format=name).reformat(
        _even(width * scale),
        _even(height * scale),
        "yuvj420p",
        src_colorspace=Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU601,  # as JPEG has it
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.AREA,
    )
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = small.width, small.height, "yuvj420p"
    encoder.framerate = Fraction(1)
    encoder.options = {"qmin": "3", "qmax": "3"}
    return b"".join(bytes(packet) for frames in (small, None) for packet in encoder.encode(frames))


def _even(side: float) -> int:
    return max(2, 2 * round(side / 2))
