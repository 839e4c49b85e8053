"""`google.rpc.Status` with a `RetryInfo`, as gRPC libraries look for it in `grpc-status-details-bin`. Pure.

Written by hand (google/rpc/status.proto, error_details.proto): two messages of three fields are no reason for a
dependency.
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration

KEY: Final = "grpc-status-details-bin"
_RETRY_INFO: Final = "type.googleapis.com/google.rpc.RetryInfo"
_CODE, _MESSAGE, _DETAILS = 1, 2, 3
_RETRY_DELAY: Final = 1


def retry_status(code: grpc.StatusCode, details: str, *, retry_after_s: float) -> bytes:
    """A serialized `google.rpc.Status` that says when to try again."""
    delay = Duration()
    delay.FromMilliseconds(round(retry_after_s * 1000))
    info = Any(type_url=_RETRY_INFO, value=_field(_RETRY_DELAY, delay.SerializeToString()))
    number: int = code.value[0]
    return bytes((_CODE << 3, number)) + _field(_MESSAGE, details.encode()) + _field(_DETAILS, info.SerializeToString())


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field of up to 16383 bytes."""
    size = len(value)
    length = bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))
    return bytes((number << 3 | 2,)) + length + value
