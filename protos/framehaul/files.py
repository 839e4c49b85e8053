"""What stands under a file's name, and the opening of what must be a file of known size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
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


def check_apart(outputs: Iterable[tuple[str, str]], inputs: Iterable[tuple[str, str]]) -> None:
    """See that no output replaces an input or another output, under whatever names; each is an option and a path.

    Raises:
        ValueError: one does.
    """
    taken = {os.path.realpath(path): option for option, path in inputs}
    for option, path in outputs:
        real = os.path.realpath(path)
        if os.path.exists(real) and not os.path.isfile(real):
            continue  # a device or a pipe isn't replaced
        if real in taken:
            raise ValueError(f"{option}={path}: must be another file than that of {taken[real]}")
        taken[real] = option
