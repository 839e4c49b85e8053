"""What stands under a file's name, and the opening of what must be a file of known size."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
}
"""What a name may belong to, other than a file."""


class NotAFile(ValueError):
    """A name that belongs to something else; `kind` says to what."""

    def __init__(self, kind: str) -> None:
        """Say what it is."""
        super().__init__(f"is {kind}: must be a regular file")
        self.kind = kind


def open_regular(path: Path | str) -> int:
    """Open a file to be read; the descriptor is the caller's.

    A FIFO would wait for its writer, deaf to signals, and can be read only once; a device may have no end.

    Raises:
        NotAFile: it is something else.
        OSError: it can't be opened.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    kind = KINDS.get(stat.S_IFMT(os.fstat(file).st_mode))
    if kind is not None:
        os.close(file)
        raise NotAFile(kind)
    return file
