"""What FFmpeg's OpenEXR files lack: the attribute that says which red, green and blue are meant.

Layout: https://openexr.com/en/latest/OpenEXRFileLayout.html. A header is a list of attributes, each a name and a type
that end in a zero byte, a size and a value; an empty name ends it. A table with the place of every chunk follows.
"""

from __future__ import annotations

import struct
from typing import Final

_MAGIC_BYTES: Final = 8
_CHROMATICITIES: Final = struct.pack(
    "<15s15si8f", b"chromaticities", b"chromaticities", 32,
    0.640, 0.330, 0.300, 0.600, 0.150, 0.060, 0.3127, 0.3290,  # ITU-R BT.709-6, item 1.4: R, G, B and D65, each x and y
)  # fmt: skip


def add_chromaticities(image: bytes) -> bytes:
    """Add those of BT.709 to a file of one part."""
    end = _MAGIC_BYTES
    while image[end]:
        size_at = image.index(0, image.index(0, end) + 1) + 1
        end = size_at + 4 + int.from_bytes(image[size_at : size_at + 4], "little")
    table = end + 1
    # The table ends where the first chunk starts.
    (first_chunk,) = struct.unpack_from("<Q", image, table)
    num_chunks = (first_chunk - table) // 8
    places = struct.unpack_from(f"<{num_chunks}Q", image, table)
    moved = struct.pack(f"<{num_chunks}Q", *(place + len(_CHROMATICITIES) for place in places))
    return b"".join((image[:end], _CHROMATICITIES, image[end:table], moved, memoryview(image)[first_chunk:]))
