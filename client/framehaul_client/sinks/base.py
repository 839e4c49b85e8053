"""What every sink does, and what it writes to: a file that gets its name only when it is whole, or a pipe.

No name reaches FFmpeg, which would take what stands before a colon for a protocol: it is handed open files.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from framehaul.files import KINDS
from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PIPES: Final = (stat.S_IFIFO, stat.S_IFCHR)


class Sink(Protocol):
    """Takes a session's frames in order; one thread drives it from `start` to `finish` or `abort`."""

    @property
    def pixel_format(self) -> PixelFormat:
        """The format that frames must have."""

    @property
    def fps(self) -> Fraction | None:
        """Frames a second; None where the output has no rate."""

    @property
    def num_bytes(self) -> int:
        """Bytes written so far; final after `finish`."""

    @property
    def faster(self) -> str:
        """How it is driven, and what would make it faster; empty: nothing known would."""

    def prepare(self) -> None:
        """Make sure that the output can be written, before any work is done for it.

        Raises:
            OutputError: it can't.
        """

    def start(self, layout: FrameLayout, num_frames: int | None = None) -> None:
        """Take note of the frames' size and their number, if it is known, before the first of them.

        Raises:
            OutputError: such frames can't be written.
        """

    def write(self, batch: FrameBatch) -> None:
        """Write frames.

        Raises:
            OutputError: that failed.
        """

    def finish(self) -> None:
        """Write what is held back and give the output its name.

        Raises:
            OutputError: that failed.
        """

    def abort(self) -> Path | None:
        """Stop here; does nothing the second time or after `finish`.

        Returns:
            The unfinished output's path, or None if nothing is worth keeping.
        """


class Descriptor(io.FileIO):
    """A file for FFmpeg. Its writes are whole, and other threads run meanwhile, unlike in FFmpeg's own files."""

    num_written = 0

    def write(self, data: ReadableBuffer) -> int:
        """Write all of `data`; a single write to a disk that fills up is cut short."""
        left = memoryview(data)
        num_bytes = len(left)
        while left:
            count = super().write(left) or 0
            self.num_written += count
            left = left[count:]
        return num_bytes


class PartialFile:
    """A new file beside `target`, under a temporary name until it is published.

    Attributes:
        target: the name that it gets: where a symbolic link leads, whether or not a file is there.
        path: the name that it has.
    """

    streamed: Final = False

    def __init__(self, target: Path) -> None:
        """Create the file, and the folder if there is none.

        Raises:
            OutputError: the folder can't be written, `target` is too long, or something that is no file has its name.
        """
        self.target = Path(os.path.realpath(target)) if os.path.islink(target) else target
        make_folder(self.target.parent)
        kind = _kind(target)
        if kind in KINDS:
            raise OutputError(f"{target}: is {KINDS[kind]}")
        try:
            self.path = _temporary(self.target)
            self.file = Descriptor(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "w")
        except OSError as error:
            raise output_error(target, error) from error

    @property
    def num_bytes(self) -> int:
        """Its size, under either name."""
        for path in (self.path, self.target):
            with contextlib.suppress(OSError):
                return path.stat().st_size
        return 0

    def reader(self, *_: object) -> Descriptor:
        """Open it once more, to read it; a muxer that moves its index to the front does so."""
        return Descriptor(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))

    def take_name(self) -> None:
        """Give the file its name, replacing what had it before; it may grow on.

        Raises:
            OutputError: the name can't be taken.
        """
        try:
            self.path.replace(self.target)
        except OSError as error:
            raise output_error(self.target, error) from error
        self.path = self.target

    def publish(self) -> None:
        """Close the file and give it its name.

        Raises:
            OutputError: the disk is full or failed, or the name can't be taken.
        """
        try:
            # Without this, a crash of the machine could leave an empty file under the final name.
            os.fsync(self.file.fileno())
            self.file.close()
        except OSError as error:
            raise output_error(self.target, error) from error
        self.take_name()

    def close(self) -> None:
        """Close the file, whatever its name; closing twice is fine."""
        self.file.close()

    def discard(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)


class Pipe:
    """Stdout, or a pipe or device that has the output's name: written as frames come, and never replaced."""

    streamed: Final = True

    def __init__(self, target: Path | None) -> None:
        """Open `target`, or stdout for None.

        Raises:
            OutputError: it can't be opened, nobody reads it, or it is a terminal.
        """
        self._name = "stdout" if target is None else str(target)
        try:
            if target is None:
                self.file = Descriptor(sys.stdout.fileno(), "w", closefd=False)
            else:
                # A blocking open would wait for a reader, deaf to signals.
                self.file = Descriptor(os.open(target, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), "w")
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise OutputError(f"{target}: is a pipe that nobody reads: start its reader first") from error
            raise output_error(self._name, error) from error
        if self.file.isatty():
            self.close()
            raise OutputError(f"{self._name} is a terminal: pipe it (| ffplay -) or redirect it (> video.mkv)")
        os.set_blocking(self.file.fileno(), True)

    @property
    def num_bytes(self) -> int:
        """Bytes written."""
        return self.file.num_written

    def close(self) -> None:
        """Close what was opened; closing twice is fine."""
        self.file.close()

    publish = discard = close


def open_output(target: Path | None) -> PartialFile | Pipe:
    """Open a pipe or device as it is, and for all else a new file; stdout for None.

    Raises:
        OutputError: it can't be opened.
    """
    if target is None or _kind(target) in _PIPES:
        return Pipe(target)
    return PartialFile(target)


def _kind(target: Path) -> int:
    """What has this name, by the system's number; 0 for nothing."""
    try:
        return stat.S_IFMT(target.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise output_error(target, error) from error


def _temporary(target: Path) -> Path:
    """A name beside `target` that nobody has, no longer than names may be there."""
    ending = f".{secrets.token_hex(3)}.partial"
    longest, name = os.pathconf(target.parent, "PC_NAME_MAX") - len(ending), target.name
    while len(os.fsencode(name)) > longest:
        name = name[:-1]
    return target.with_name(name + ending)


def make_folder(folder: Path) -> None:
    """Make `folder` if there is none.

    Raises:
        OutputError: it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{folder}: a file is in its way") from error
    except OSError as error:
        raise output_error(folder, error) from error


def output_error(target: Path | str, error: OSError) -> OutputError:
    """Say in one line why `target` couldn't be written."""
    return OutputError(f"{target}: {error.strerror or error}")
