"""One PNG or OpenEXR file for each frame, lossless; every file appears whole."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from av.video.codeccontext import VideoCodecContext

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.sinks.base import make_folder, output_error
from framehaul_client.sinks.image_encoding import ImageEncoding

_NUMBER: Final = re.compile(r"%(?:0\d+)?d")
_TEMPORARY: Final = ".framehaul.partial"


def check_pattern(pattern: str) -> None:
    """Check that `pattern` names one file for each frame number, by `%d` or `%06d` in its last part alone.

    Raises:
        ValueError: it doesn't.
    """
    folder, name = os.path.split(pattern)
    if "%" in folder or len(_NUMBER.findall(name)) != 1 or "%" in _NUMBER.sub("", name):
        raise ValueError(f"out={pattern}: the file's name must hold one frame number, such as frame-%06d.png")


class ImageSink:
    """Numbers its files from 0, the index of the frame in the clip."""

    def __init__(self, pattern: str, encoding: ImageEncoding) -> None:
        """Write files named by `pattern`, such as `frames/%06d.png`, in `encoding`.

        Raises:
            ValueError: the pattern doesn't name one file for each frame.
        """
        check_pattern(pattern)
        folder, self._name = os.path.split(pattern)
        self._folder = Path(folder)
        self._encoding = encoding
        self._num_bytes = 0
        self._codec: VideoCodecContext | None = None

    @property
    def pixel_format(self) -> PixelFormat:
        """What frames must be in."""
        return self._encoding.pixel_format

    @property
    def num_bytes(self) -> int:
        """Bytes written so far, of all files."""
        return self._num_bytes

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            OutputError: it can't be created or written.
        """
        make_folder(self._folder)
        probe = self._folder / _TEMPORARY
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise output_error(self._folder, error) from error

    def start(self, layout: FrameLayout) -> None:
        """Open the encoder."""
        self._codec = self._encoding.open(layout)

    def write(self, batch: FrameBatch) -> None:
        """Write one file for each frame.

        Raises:
            OutputError: the disk is full or failed.
        """
        assert self._codec is not None, "start comes first"
        for index, pixels in enumerate(batch.frames, batch.first_frame):
            self._write_file(self._folder / (self._name % index), self._encoding.encode(self._codec, pixels))

    def finish(self) -> None:
        """Do nothing: every file is whole already."""

    def abort(self) -> Path | None:
        """Leave the files that are there: each is whole."""
        return self._folder if self._num_bytes else None

    def _write_file(self, path: Path, image: bytes) -> None:
        temporary = path.with_name(path.name + _TEMPORARY)
        try:
            temporary.write_bytes(image)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise output_error(path, error) from error
        self._num_bytes += len(image)
