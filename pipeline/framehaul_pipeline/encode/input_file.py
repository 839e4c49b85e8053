"""A video's bytes for FFmpeg: a file of any name, a pipe, or standard input; never a URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Final

import av
from av.container import InputContainer

STANDARD_INPUT: Final = "-"
_READ_BYTES: Final = 1 << 18
# What a playlist or a script may name: other files, and nothing on a network.
_PROTOCOLS: Final = "file,crypto,data"


class ReadInterrupted(Exception):
    """SIGINT came while the video was read."""


class InputFile:
    """An open file as PyAV reads one."""

    def __init__(self, name: str) -> None:
        """Open `name`; of a pipe, wait for who writes.

        Raises:
            OSError: there is no such file, or it can't be read.
        """
        source: int | str = 0 if name == STANDARD_INPUT else name
        self._file: BinaryIO = open(source, "rb", buffering=0, closefd=name != STANDARD_INPUT)  # noqa: SIM115
        # What a playlist names is beside it.
        self.name = os.path.abspath(name)
        self.seek, self.tell, self.seekable = self._file.seek, self._file.tell, self._file.seekable

    def read(self, num_bytes: int) -> bytes:
        """Up to `num_bytes`; none at the end.

        Raises:
            ReadInterrupted: SIGINT came. PyAV would drop a `KeyboardInterrupt`, and read on.
        """
        try:
            return self._file.read(num_bytes)
        except KeyboardInterrupt as error:
            raise ReadInterrupted from error

    def close(self) -> None:
        """Close the file, unless it is standard input. Closing twice is fine."""
        self._file.close()


def open_input(name: str) -> tuple[InputContainer, InputFile | None]:
    """Open a video, and the file that it is read from; None for numbered pictures, `shot/%04d.png`.

    Raises:
        av.FFmpegError: it is no video.
        OSError: it can't be read.
        ReadInterrupted: SIGINT came.
    """
    options = {"protocol_whitelist": _PROTOCOLS}
    if "%" in name and not Path(name).exists():
        return av.open(f"file:{os.path.abspath(name)}", options=options), None
    file = InputFile(name)
    try:
        return av.open(file, "r", options=options, buffer_size=_READ_BYTES), file
    except BaseException:
        file.close()
        raise
