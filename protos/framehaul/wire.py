"""Codec of messages whose payload must not be copied by protobuf, and the protocol's constants.

Runs at both ends, on the event loop. The wire format is protobuf's own: what `join` makes, any generated stub reads,
and what any generated stub writes, `split` reads. Payloads have the highest field number of their message (15), so
`join` equals `SerializeToString()` byte for byte (for a non-empty payload).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from framehaul.causes import Cause
from framehaul.formats import LatentDtype, PixelFormat
from framehaul.v1 import frames_pb2 as pb

SERVICE: Final = "framehaul.v1.FrameService"
PAYLOAD_FIELD: Final = 15
MAX_PRIORITY: Final = 100
"""Of a session; the lowest is the same below zero."""
MAX_AGE_MS: Final = 3_600_000
"""Of a session; what is older counts as this old, so no client gets ahead of its tenant's others by more."""
PIXEL_FORMATS: Final = {each: pb.PixelFormat.Value(f"PIXEL_FORMAT_{each.name}") for each in PixelFormat}
CAUSES: Final = {each: pb.Cause.Value(f"CAUSE_{each.name}") for each in Cause}
DATA_TYPES: Final = {each: pb.DataType.Value(f"DATA_TYPE_{each.name}") for each in LatentDtype}

_PAYLOAD_TAG: Final = bytes([PAYLOAD_FIELD << 3 | 2])
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES: Final = 10

MessageT = TypeVar("MessageT", bound=Message)


class MalformedMessage(ValueError):
    """Bytes that are not a protobuf message of the expected type."""


class Envelope(Generic[MessageT]):
    """A message in two parts: everything but the payload field, and the payload as a read-only view.

    The view keeps the whole received message alive.
    """

    __slots__ = ("header", "payload")

    def __init__(self, header: MessageT, payload: memoryview) -> None:
        """Pair a `header`, whose payload field is empty, with its `payload`."""
        self.header = header
        self.payload = payload

    @property
    def num_bytes(self) -> int:
        """Of the whole received message, which the view keeps alive."""
        return memoryview(self.payload.obj).nbytes


def join(header: Message, parts: Iterable[bytes | memoryview]) -> bytes:
    """Serialize `header` with the concatenated `parts` as its payload, in one copy.

    gRPC takes exact `bytes` only, so this copy is also the one that frees the parts' memory.
    """
    views = list(parts)
    num_bytes = sum(len(view) for view in views)
    return b"".join((header.SerializeToString(), _PAYLOAD_TAG, _varint(num_bytes), *views))


def split(raw: bytes, message_type: type[MessageT]) -> Envelope[MessageT]:
    """Parse `raw` into a header and a view of its payload (empty when the field is missing).

    Fields may stand in any order; of several payload fields the last counts, as in proto3.

    Raises:
        MalformedMessage: `raw` is not a serialized `message_type`.
    """
    view = memoryview(raw)
    payload = view[:0]
    header: list[memoryview] = []
    start = 0
    while start < len(raw):
        key, position = _read_varint(raw, start)
        wire_type = key & 7
        if wire_type == _LENGTH:
            num_bytes, position = _read_varint(raw, position)
            end = position + num_bytes
        elif wire_type == _VARINT:
            _, end = _read_varint(raw, position)
        elif wire_type in (_FIXED32, _FIXED64):
            end = position + (4 if wire_type == _FIXED32 else 8)
        else:
            raise MalformedMessage(f"wire type {wire_type} at byte {start}: must be 0, 1, 2 or 5")
        if end > len(raw):
            raise MalformedMessage(f"field at byte {start} ends at {end}: the message has {len(raw)} bytes")
        if wire_type == _LENGTH and key >> 3 == PAYLOAD_FIELD:
            payload = view[position:end]
        else:
            header.append(view[start:end])
        start = end
    try:
        return Envelope(message_type.FromString(b"".join(header)), payload)
    except DecodeError as error:
        raise MalformedMessage(f"not a {message_type.DESCRIPTOR.name}: {error}") from error


def split_request(raw: bytes) -> Envelope[pb.StreamRequest]:
    """Parse a `StreamRequest`; raises `MalformedMessage`."""
    return split(raw, pb.StreamRequest)


def split_response(raw: bytes) -> Envelope[pb.StreamResponse]:
    """Parse a `StreamResponse`; raises `MalformedMessage`."""
    return split(raw, pb.StreamResponse)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(raw: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if position >= len(raw):
            raise MalformedMessage(f"a number is cut off at byte {position}")
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedMessage(f"a number at byte {position} is longer than {_MAX_VARINT_BYTES} bytes")
