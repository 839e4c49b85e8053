"""Where a film's bytes are: below a folder that the operator names, or in a file without a name, an upload's."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import IO

from framehaul_pipeline.errors import InvalidInput, Lack, NotFound, Overloaded

_RETRY_AFTER_S = 5.0


def open_below(root: Path, path: str) -> int:
    """Open a regular file below `root`; no symbolic link on the way is followed, so nothing leads out of it.

    Returns:
        Its descriptor, which is the caller's.

    Raises:
        InvalidInput: not such a path.
        NotFound: there is no such file.
    """
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise InvalidInput("open.path", path, "names of folders and a file with / between them, from the server's root")
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        # Not to wait for who writes into a pipe.
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        raise NotFound(f"open.path={path}: no such file below the server's root that it may read") from None
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise NotFound(f"open.path={path}: not a regular file")
    return file


class UploadSpace:
    """How many bytes all uploads together may have on disk."""

    def __init__(self, num_bytes: int) -> None:
        """Share `num_bytes`."""
        self._free = num_bytes

    def upload(self, num_bytes: int) -> Upload:
        """Room for one.

        Raises:
            Overloaded: others have it.
        """
        if num_bytes > self._free:
            reason = "other uploads take the server's room for them"
            raise Overloaded(reason, Lack.UPLOAD_BYTES, retry_after_s=_RETRY_AFTER_S)
        self._free -= num_bytes
        return Upload(self, num_bytes)

    def give_back(self, num_bytes: int) -> None:
        """An upload is gone."""
        self._free += num_bytes


class Upload:
    """A film on its way in: a file without a name, so that nothing is left whoever is killed."""

    def __init__(self, space: UploadSpace, num_bytes: int) -> None:
        """Expect `num_bytes`, which were taken of `space`."""
        self._space, self._num_bytes = space, num_bytes
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="framehaul-upload-")  # noqa: SIM115
        self.num_received = 0

    @property
    def fd(self) -> int:
        """Of the file."""
        return self._file.fileno()

    def write(self, content: memoryview) -> None:
        """Take the next bytes.

        Raises:
            InvalidInput: there are more than was said.
            Overloaded: the disk is full.
        """
        self.num_received += len(content)
        if self.num_received > self._num_bytes:
            raise InvalidInput("data", f"{self.num_received} bytes", f"{self._num_bytes}, as open.upload_bytes says")
        try:
            while content:
                content = content[os.write(self.fd, content) :]
        except OSError as error:
            reason = f"the server can't keep the upload: {error.strerror}"
            raise Overloaded(reason, Lack.UPLOAD_BYTES, retry_after_s=_RETRY_AFTER_S) from error

    def check_whole(self) -> None:
        """Refuse an upload that ended early.

        Raises:
            InvalidInput: it did.
        """
        if self.num_received != self._num_bytes:
            raise InvalidInput("end_of_upload", f"after {self.num_received} bytes", f"after {self._num_bytes}, as said")

    def close(self) -> None:
        """Let go of it; twice is fine."""
        if not self._file.closed:
            self._file.close()
            self._space.give_back(self._num_bytes)
