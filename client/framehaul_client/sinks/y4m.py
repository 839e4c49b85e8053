"""Raw video to a pipe, as y4m: what `ffplay -` and `ffmpeg -i -` read.

Header: https://wiki.multimedia.cx/index.php/YUV4MPEG2; `C420jpeg` is 4:2:0 with chroma in the centre (`C420mpeg2` would
be on the left). y4m can't name the colour matrix: players take BT.709 for large frames and BT.601 for small ones unless
they are told.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

from framehaul_client.errors import OutputClosed, OutputError
from framehaul_client.frames import FrameBatch, FrameLayout, PixelFormat

_FRAME = b"FRAME\n"


def y4m_header(layout: FrameLayout, fps: Fraction) -> bytes:
    """Make the stream's first line."""
    return (
        f"YUV4MPEG2 W{layout.width} H{layout.height} F{fps.numerator}:{fps.denominator} Ip A1:1 C420jpeg "
        "XYSCSS=420JPEG XCOLORRANGE=LIMITED\n"
    ).encode("ascii")


class Y4mSink:
    """Writes to a file descriptor that it doesn't own."""

    def __init__(self, file: int, fps: Fraction) -> None:
        """Write to `file` at `fps` frames a second."""
        self._file = file
        self._fps = fps
        self._num_bytes = 0

    @property
    def pixel_format(self) -> PixelFormat:
        """Always yuv420p."""
        return PixelFormat.YUV420P

    @property
    def num_bytes(self) -> int:
        """Bytes written so far."""
        return self._num_bytes

    def prepare(self) -> None:
        """Refuse a terminal, and wait in writes even if whoever made the pipe set it otherwise.

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
            self._write([memoryview(_FRAME), frame.reshape(-1).data])

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
            self._num_bytes += num_bytes
            while parts and num_bytes >= len(parts[0]):
                num_bytes -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][num_bytes:]
