"""What one worker leaves to the next: an anonymous file of the server's, whatever is in it.

The server makes it and hands it to every worker; only workers read and write it. It is sealed against resizing: no
worker can fill the memory with it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

_NUM_BYTES: Final = 16 << 20
"""Of the file. Memory is taken only for what is written."""
_LENGTH: Final = struct.Struct("<Q")
"""In front of the content, and written last: a worker that died while it wrote has left nothing."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MAX_CONTENT_BYTES: Final = _NUM_BYTES - _LENGTH.size


class Heirloom:
    """A file that outlives the worker that writes it; empty at first."""

    def __init__(self, fd: int) -> None:
        """Own `fd`."""
        self.fd = fd

    @classmethod
    def create(cls) -> Heirloom:
        """Make an empty one, which nobody else may open."""
        fd = os.memfd_create("framehaul-heirloom", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, _NUM_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd)

    def read(self) -> bytes:
        """What is in it."""
        (length,) = _LENGTH.unpack(os.pread(self.fd, _LENGTH.size, 0))
        return os.pread(self.fd, min(length, MAX_CONTENT_BYTES), _LENGTH.size)

    def write(self, content: bytes) -> None:
        """Put this in it, in place of what was there.

        Raises:
            ValueError: it has more than `MAX_CONTENT_BYTES`.
        """
        if len(content) > MAX_CONTENT_BYTES:
            raise ValueError(f"content={len(content)} bytes: must be at most {MAX_CONTENT_BYTES}")
        self._put(_LENGTH.pack(0), 0)
        self._put(content, _LENGTH.size)
        self._put(_LENGTH.pack(len(content)), 0)

    def _put(self, content: bytes, offset: int) -> None:
        written = 0
        while written < len(content):
            written += os.pwrite(self.fd, content[written:], offset + written)

    def close(self) -> None:
        """Close; twice is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
