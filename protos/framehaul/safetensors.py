"""The header of a safetensors file as values; pure.

The safetensors package maps the whole file, and can't slice bfloat16 with numpy. Here the header is held against the
file's size before any of it is believed, and no tensor is read. Format: https://github.com/huggingface/safetensors,
README, "Format".
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

PREFIX_BYTES: Final = 8  # the header's length, little-endian
MAX_HEADER_BYTES: Final = 16 << 20
_OTHERS: Final = {
    b"\x93NUMPY": "a NumPy file (.npy): must be safetensors (safetensors.numpy.save_file writes it)",
    b"PK\x03\x04": "a zip archive, such as a PyTorch file (.pt) or NumPy's .npz: must be safetensors (save_file of "
    "safetensors.torch or safetensors.numpy writes it)",
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "a pickle or PyTorch file: must be safetensors (safetensors.torch.save_file writes it)",
    ),
    b"version ": "a Git LFS pointer: the file itself wasn't fetched (git lfs pull)",
    b"GGUF": "a GGUF file: must be safetensors",
    **dict.fromkeys((b"<!DOCTYP", b"<!doctyp", b"<html"), "a web page, not the file: was its download refused?"),
}
"""How files of other kinds begin, and what to say of them."""
_ITEM_BITS: Final = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


class MalformedHeader(ValueError):
    """A file that isn't safetensors, or is cut off."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        dtype: safetensors' name of its number format.
        shape: its sizes.
        offset: of its first byte in the file.
        num_bytes: of all its elements.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """All tensors by name, and the file's own notes."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]


def header_bytes(prefix: bytes, file_bytes: int | None) -> int:
    """Read the header's length from the first bytes of a file of `file_bytes`; None: of a pipe, which has no length.

    Raises:
        MalformedHeader: this isn't a safetensors file, or is cut off.
    """
    for start, told in _OTHERS.items():
        if prefix.startswith(start):
            raise MalformedHeader(told)
    if len(prefix) < PREFIX_BYTES:
        raise MalformedHeader(f"{len(prefix)} bytes: too short for a safetensors file")
    num_bytes = int.from_bytes(prefix[:PREFIX_BYTES], "little")
    if num_bytes > MAX_HEADER_BYTES:
        raise MalformedHeader(f"not a safetensors file (its header would have {num_bytes} bytes)")
    if file_bytes is not None and num_bytes + PREFIX_BYTES > file_bytes:
        raise MalformedHeader(f"cut off: its header ends at byte {num_bytes + PREFIX_BYTES}, the file at {file_bytes}")
    return num_bytes


def parse_header(text: bytes, file_bytes: int | None) -> Header:
    """Parse the header `text` of a file of `file_bytes`, or of a pipe.

    Raises:
        MalformedHeader: it isn't one, or a tensor doesn't fit its description or the file.
    """
    try:
        entries = json.loads(text, object_pairs_hook=_named_once)
    except (ValueError, RecursionError) as error:
        raise MalformedHeader(f"not a safetensors file (its header is not JSON: {error})") from error
    if not isinstance(entries, dict):
        raise MalformedHeader("not a safetensors file (its header is not a JSON object)")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(note, str) for note in metadata.values()):
        raise MalformedHeader("its __metadata__ is not a table of strings")
    start = PREFIX_BYTES + len(text)
    tensors = {name: _tensor(name, entry, start, file_bytes) for name, entry in entries.items()}
    return Header(tensors, metadata)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _tensor(name: str, entry: Any, start: int, file_bytes: int | None) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise MalformedHeader(f"tensor {name!r} needs dtype, shape and data_offsets")
    if dtype not in _ITEM_BITS:
        raise MalformedHeader(f"tensor {name!r} has dtype {dtype}: unknown")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise MalformedHeader(f"tensor {name!r} has shape {shape}: must be whole numbers from 0")
    num_bytes = (math.prod(shape) * _ITEM_BITS[dtype] + 7) // 8
    if begin < 0 or end - begin != num_bytes:
        raise MalformedHeader(f"tensor {name!r} lies at {begin}..{end}: {dtype} {shape} has {num_bytes} bytes")
    if file_bytes is not None and start + end > file_bytes:
        raise MalformedHeader(f"cut off: tensor {name!r} ends at byte {start + end}, the file at {file_bytes}")
    return StoredTensor(dtype, tuple(shape), start + begin, num_bytes)
