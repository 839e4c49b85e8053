"""Raw video to a pipe as y4m, which `ffplay -` and `ffmpeg -i -` read.

Header: https://wiki.multimedia.cx/index.php/YUV4MPEG2. `C420jpeg` is 4:2:0 with chroma in the centre; with `C420mpeg2`
it would be on the left. The 10-bit form, `C420p10`, can't say where chroma is. Nor can y4m name the colour matrix:
unless told, players take BT.709 for large frames and BT.601 for small ones.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.errors import OutputClosed, OutputError

_FRAME: Final = b"FRAME\n"
_CHROMA: Final = {
    PixelFormat.YUV420P: "C420jpeg XYSCSS=420JPEG",
    PixelFormat.YUV420P10LE: "C420p10 XYSCSS=420P10",
}
Y4M_FORMATS: Final = tuple(_CHROMA)
"""The formats that the stream can hold."""


def y4m_header(layout: FrameLayout, fps: Fraction) -> bytes:
    """Make the stream's first line."""
    return (
        f"YUV4MPEG2 W{layout.width} H{layout.height} F{fps.numerator}:{fps.denominator} Ip A1:1 "
        f"{_CHROMA[layout.pixel_format]} XCOLORRANGE=LIMITED\n"
    ).encode("ascii")


class Y4mSink:
    """Writes to a file descriptor that it doesn't own."""

    def __init__(self, file: int, pixel_format: PixelFormat, fps: Fraction) -> None:
        """Write frames of `pixel_format`, one of `Y4M_FORMATS`, to `file` at `fps` frames a second."""
        self._file = file
        self._fps = fps
        self.pixel_format = pixel_format
        self.num_bytes = 0

    def prepare(self) -> None:
        """Refuse a terminal, and let writes block even if the pipe was made non-blocking.

        Raises:
            OutputError: the output would fill a screen with raw video.
        """
        if os.isatty(self._file):
            raise OutputError("stdout is a terminal: pipe it (| ffplay -) or redirect it (> video.y4m)")
        os.set_blocking(self._file, True)

    def start(self, layout: FrameLayout) -> None:
        """Write the header.

        Raises:
            OutputClosed: the reader has gone.
            OutputError: the write failed.
        """
        self._write([memoryview(y4m_header(layout, self._fps))])

    def write(self, batch: FrameBatch) -> None:
        """Write frames.

        Raises:
            OutputClosed: the reader has gone.
            OutputError: the write failed.
        """
        for frame in batch.frames:
            self._write([memoryview(_FRAME), frame.reshape(-1).view(np.uint8).data])

    def finish(self) -> None:
        """Do nothing: each frame was written at once."""

    def abort(self) -> Path | None:
        """Do nothing: what was written is gone."""
        return None

    def _write(self, parts: list[memoryview]) -> None:
        while parts:
            try:
                num_bytes = os.writev(self._file, parts)
            except BrokenPipeError as error:
                raise OutputClosed("stdout: its reader has gone") from error
            except OSError as error:
                raise OutputError(f"stdout: {error.strerror}") from error
            self.num_bytes += num_bytes
            while parts and num_bytes >= len(parts[0]):
                num_bytes -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][num_bytes:]
