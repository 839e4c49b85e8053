"""What one worker leaves to the next: an anonymous file of the server's, whatever is in it.

The server makes it and hands it to every worker; only workers read and write it.
"""

from __future__ import annotations

import os


class Heirloom:
    """A file that outlives the worker that writes it; empty at first."""

    def __init__(self, fd: int) -> None:
        """Own `fd`."""
        self.fd = fd

    @classmethod
    def create(cls) -> Heirloom:
        """Make an empty one, which nobody else may open."""
        fd = os.memfd_create("framehaul-heirloom", os.MFD_CLOEXEC)
        os.fchmod(fd, 0o600)
        return cls(fd)

    def read(self) -> bytes:
        """What is in it; a worker that died while it wrote has left a part."""
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0)

    def write(self, content: bytes) -> None:
        """Put this in it, in place of what was there."""
        os.ftruncate(self.fd, 0)
        written = 0
        while written < len(content):
            written += os.pwrite(self.fd, content[written:], written)

    def close(self) -> None:
        """Close; twice is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
