"""A value made from files, made again when they change: certificates and tokens, without a restart.

Any thread. A changed file that is no good leaves the value as it was, and says so in the log once.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Generic, TypeVar

from framehaul.files import NotAFile, open_regular
from framehaul_server import logs

_log = logging.getLogger(__name__)
ValueT = TypeVar("ValueT")
Stamp = tuple[tuple[int, int, int] | None, ...]


class Watched(Generic[ValueT]):
    """Owner of the value; the files are looked at when it is asked for, a few microseconds each."""

    def __init__(self, what: str, paths: tuple[Path, ...], load: Callable[[], ValueT]) -> None:
        """Make the value with `load`, which reads `paths` and raises `OSError` or `ValueError` when they are bad.

        Raises:
            OSError: from `load`.
            ValueError: from `load`.
        """
        self._what = what
        self._paths = paths
        self._load = load
        self._lock = threading.Lock()
        # Before they are read: what changes meanwhile is read again.
        self._stamp = self._look()
        self._value = load()

    def current(self) -> ValueT:
        """The value of the newest files that were good."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._value = self._load()
                except (OSError, ValueError) as error:
                    _log.error("%s", logs.line("reload_failed", what=self._what, kept="the old one", reason=error))
                else:
                    _log.info("%s", logs.line("reloaded", what=self._what))
            return self._value

    def _look(self) -> Stamp:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_public(path: Path) -> bytes:
    """Read a file that others may read.

    Raises:
        OSError: it can't be read.
        ValueError: it is no regular file.
    """
    with _open(path) as file:
        return file.read()


def read_private(path: Path) -> bytes:
    """Read a file that others must not read, nor change.

    Raises:
        OSError: it can't be read.
        ValueError: it is no regular file, other users may read it, or its group may write it.
    """
    with _open(path) as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise ValueError(f"{path}: mode {stat.S_IMODE(mode):04o}: must be 0600, or 0640 for a group: chmod 600")
        return file.read()


def _open(path: Path) -> BufferedReader:
    try:
        return open(open_regular(path), "rb")
    except NotAFile as error:
        raise ValueError(f"{path}: {error}") from None
    except OSError as error:
        raise type(error)(f"{path}: {error.strerror}") from error
