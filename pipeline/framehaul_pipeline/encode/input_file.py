"""Opens a video for FFmpeg: a file of any name, a pipe, or standard input; never a URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Final

import av
from av.container import InputContainer

STANDARD_INPUT: Final = "-"
_READ_BYTES: Final = 1 << 18
_PROTOCOLS: Final = "file,crypto,data"
"""What a playlist or a script may name: other files, and nothing on a network."""

_SEGMENT_ID: Final = b"\x18\x53\x80\x67"
_MAX_FRAME_HEADER: Final = 80
"""Of YUV4MPEG2, as FFmpeg reads it (libavformat/yuv4mpegdec.c)."""
_MAX_OGG_PAGE: Final = 27 + 255 + 255 * 255


def open_input(name: str) -> tuple[InputContainer, IO[bytes] | None]:
    """Open a video, and the file that it is read from; None for numbered pictures, `shot/%04d.png`.

    Waits for who writes into a pipe.

    Raises:
        av.FFmpegError: it is no video.
        OSError: it can't be read.
    """
    options = {"protocol_whitelist": _PROTOCOLS}
    # Absolute, since FFmpeg looks there for what a playlist names.
    path = os.path.abspath(name)
    if "%" in name and not Path(name).exists():
        return av.open(f"file:{path}", options=options), None
    if name == STANDARD_INPUT:
        file: IO[bytes] = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
    else:
        file = open(path, "rb", buffering=0)  # noqa: SIM115
    try:
        # A picture whose own name has a pattern is no sequence.
        return av.open(file, "r", options=options | {"pattern_type": "none"}, buffer_size=_READ_BYTES), file
    except BaseException:
        file.close()
        raise


def matroska_is_cut_off(file: IO[bytes]) -> bool:
    """Whether a Matroska or WebM file ends before its segment does (RFC 8794, section 4; RFC 9559, section 4.5)."""
    file.seek(0)
    head = file.read(4096)
    at = head.find(_SEGMENT_ID)
    if at < 0:
        return False
    first = head[at + 4]
    num_bytes = 9 - first.bit_length()
    start = at + 4 + num_bytes
    size = int.from_bytes(head[at + 4 : start], "big") & ((1 << 7 * num_bytes) - 1)
    unknown = size == (1 << 7 * num_bytes) - 1
    return not unknown and start + size > file.seek(0, os.SEEK_END)


def ends_midway(file: IO[bytes], container: str, read_to_byte: int) -> bool:
    """Whether a YUV4MPEG2 file ends in a frame, an Ogg file in a page (RFC 3533, section 6), or a GIF with no trailer.

    FFmpeg reads such a file up to there, and says nothing.
    """
    size = file.seek(0, os.SEEK_END)
    if container == "yuv4mpegpipe":
        return size - read_to_byte > _MAX_FRAME_HEADER
    if container not in ("ogg", "gif"):
        return False
    file.seek(max(0, size - _MAX_OGG_PAGE))
    end = file.read()
    if container == "gif":
        return not end.rstrip(b"\0").endswith(b";")
    page = end[end.rfind(b"OggS") :]
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
