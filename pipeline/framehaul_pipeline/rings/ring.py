"""A ring's memory: equal slots in one sealed, anonymous file that two processes map.

Used by server and worker, once for frames and once for latents. The file has no name, so nothing is left behind
whoever is killed; it is sealed against resizing, so a mapping can't be cut short under its reader. Which slot may be
touched when is not decided here (`slots`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from typing import Final, NamedTuple

PAGE_BYTES: Final = 4096
NUM_NOTES: Final = 3
HOLDER_PLACE: Final = 0
"""Of the note that says who holds the slot."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MAGIC: Final = b"fhslot1\0"
_HEADER: Final = struct.Struct("<8sQQQQQ")
_NOTE: Final = struct.Struct("<Q")
_NOTES_START: Final = 64
"""In each header page, behind the header."""


class RingError(Exception):
    """A descriptor or a slot header that is not what its sender said."""


class SlotHeader(NamedTuple):
    """What the owner writes in front of a slot's payload once it is whole."""

    generation: int
    session: int
    first_index: int
    """Of the first frame or latent in the payload."""
    num_items: int
    item_bytes: int


def stride_bytes(slot_bytes: int) -> int:
    """Memory of a slot with so much payload: a header page and whole pages."""
    return PAGE_BYTES + -(-slot_bytes // PAGE_BYTES) * PAGE_BYTES


class Ring:
    """A mapping of `num_slots` slots, each a header page and `slot_bytes` of payload rounded up to whole pages."""

    def __init__(self, fd: int, *, num_slots: int, slot_bytes: int) -> None:
        """Map `fd`, which the ring then owns.

        Raises:
            RingError: the file has another size than these slots need, or isn't sealed against resizing.
        """
        self.num_slots = num_slots
        self.slot_bytes = slot_bytes
        self._stride = stride_bytes(slot_bytes)
        self.num_bytes = self._stride * num_slots
        self.fd = fd
        size = os.fstat(fd).st_size
        if size != self.num_bytes:
            raise RingError(f"file size={size}: must be {self.num_bytes} for {num_slots} slots of {slot_bytes} bytes")
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise RingError("the file can be resized: it must be sealed against shrinking, growing and further seals")
        self._map = mmap.mmap(fd, self.num_bytes)
        self.memory = memoryview(self._map)
        """The whole mapping, for registering it as pinned memory."""

    @classmethod
    def create(cls, name: str, *, num_slots: int, slot_bytes: int) -> Ring:
        """Make and map a new file; `name` shows in /proc for people."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, stride_bytes(slot_bytes) * num_slots)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, num_slots=num_slots, slot_bytes=slot_bytes)
        except BaseException:
            os.close(fd)
            raise

    def payload_offset(self, slot: int) -> int:
        """Where a slot's payload starts in `memory`."""
        return slot * self._stride + PAGE_BYTES

    def payload(self, slot: int) -> memoryview:
        """A slot's payload: `slot_bytes`, writable. Release it before `close`."""
        start = self.payload_offset(slot)
        return self.memory[start : start + self.slot_bytes]

    def write_header(self, slot: int, header: SlotHeader) -> None:
        """Write a slot's header; the owner's last act before it publishes."""
        _HEADER.pack_into(self._map, slot * self._stride, _MAGIC, *header)

    def read_header(self, slot: int) -> SlotHeader:
        """Read a slot's header.

        Raises:
            RingError: the slot was never written.
        """
        magic, *fields = _HEADER.unpack_from(self._map, slot * self._stride)
        if magic != _MAGIC:
            raise RingError(f"slot {slot} holds no header")
        return SlotHeader(*fields)

    def note(self, slot: int, place: int, session: int) -> None:
        """Write down whose work something is, for whoever still maps the ring when this process is gone; 0: nobody's.

        Each slot's page has `NUM_NOTES` places.
        """
        _NOTE.pack_into(self._map, self._note_offset(slot, place), session)

    def noted(self) -> frozenset[int]:
        """Sessions that are written down anywhere."""
        found = {
            _NOTE.unpack_from(self._map, self._note_offset(slot, place))[0]
            for slot in range(self.num_slots)
            for place in range(NUM_NOTES)
        }
        return frozenset(found - {0})

    def num_held(self) -> int:
        """Slots with a session written down at `HOLDER_PLACE`."""
        offsets = (self._note_offset(slot, HOLDER_PLACE) for slot in range(self.num_slots))
        return sum(_NOTE.unpack_from(self._map, offset)[0] != 0 for offset in offsets)

    def _note_offset(self, slot: int, place: int) -> int:
        return slot * self._stride + _NOTES_START + place * _NOTE.size

    def close(self) -> None:
        """Unmap and close; twice is fine.

        Raises:
            BufferError: a view of a payload is still held.
        """
        if self.fd < 0:
            return
        self.memory.release()
        self._map.close()
        os.close(self.fd)
        self.fd = -1
