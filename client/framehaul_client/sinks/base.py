"""What every sink does, and a file that gets its name only when it is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Protocol

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.errors import OutputError


class Sink(Protocol):
    """Takes a session's frames in order; one thread drives it from `start` to `finish` or `abort`."""

    @property
    def pixel_format(self) -> PixelFormat:
        """The format that frames must have."""

    @property
    def num_bytes(self) -> int:
        """Bytes written so far; final after `finish`."""

    def prepare(self) -> None:
        """Make sure that the output can be written, before any work is done for it.

        Raises:
            OutputError: it can't.
        """

    def start(self, layout: FrameLayout) -> None:
        """Take note of the frames' size, before the first of them.

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


class PartialFile:
    """A new file beside `target`, under a temporary name until it is published."""

    def __init__(self, target: Path) -> None:
        """Create the file, and the folder if there is none.

        Raises:
            OutputError: the folder can't be written, or `target` is one.
        """
        self.target = target
        if target.is_dir():
            raise OutputError(f"{target}: is a directory")
        self.path = target.with_name(f"{target.name}.{secrets.token_hex(3)}.partial")
        make_folder(target.parent)
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except OSError as error:
            raise output_error(target, error) from error

    @property
    def num_bytes(self) -> int:
        """Its size, under either name."""
        for path in (self.path, self.target):
            with contextlib.suppress(OSError):
                return path.stat().st_size
        return 0

    def publish(self) -> None:
        """Give the file its name, replacing what had it before.

        Raises:
            OutputError: the disk is full or failed, or the name can't be taken.
        """
        try:
            # Without this, a crash of the machine could leave an empty file under the final name.
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(file)
            finally:
                os.close(file)
            self.path.replace(self.target)
        except OSError as error:
            raise output_error(self.target, error) from error

    def discard(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


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


def output_error(target: Path, error: OSError) -> OutputError:
    """Say in one line why `target` couldn't be written."""
    return OutputError(f"{target}: {error.strerror or error}")
