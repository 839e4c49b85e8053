"""Maps gRPC's status codes to this package's errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from framehaul_client import errors
from framehaul_client.core.printable import printable

PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
_DETAILS_KEY: Final = "grpc-status-details-bin"
_STATUS_DETAILS: Final = 3
_ERROR_INFO: Final = "google.rpc.ErrorInfo"
_INFO_REASON: Final = 1
_INFO_DOMAIN: Final = 2
_DOMAIN: Final = b"framehaul"

_ERRORS: Final[dict[grpc.StatusCode, type[errors.FramehaulError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: errors.InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: errors.NotAuthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.DATA_LOSS: errors.SessionDamaged,
}
# CANCELLED comes from the server here (nobody asks for the status of a call that the client cancelled): it is stopping,
# or it learned late of an earlier connection of ours and cancelled the present one.
_LOST: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended."""

    code: grpc.StatusCode
    details: str | None
    trailers: grpc.aio.Metadata | None = None


def client_error(status: Status, target: str, *, connected: bool) -> errors.FramehaulError:
    """Map the status of a failed call.

    Args:
        status: what the call ended with.
        target: the server's address, which the text names.
        connected: the server had answered in this call before it failed.
    """
    error = _error(status, target, connected=connected)
    error.reason = _reason(status.trailers)
    return error


def call_error(error: grpc.aio.AioRpcError, target: str) -> errors.FramehaulError:
    """Map a unary call that failed."""
    return client_error(Status(error.code(), error.details(), error.trailing_metadata()), target, connected=False)


def _error(status: Status, target: str, *, connected: bool) -> errors.FramehaulError:
    details = printable(status.details or "no reason given")
    if status.code in _LOST:
        lost = errors.ConnectionLost if connected else errors.ServerUnavailable
        return lost(f"{target}: {details}")
    if status.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.Refused(f"{target}: {details}", _pushback_s(status.trailers))
    error_type = _ERRORS.get(status.code, errors.StreamFailed)
    if error_type is errors.StreamFailed:
        details = f"{status.code.name}: {details}"
    if error_type is errors.NotAuthenticated:
        details = f"{details} (--token-file, or FRAMEHAUL_TOKEN)"
    return error_type(f"{target}: {details}")


def _reason(trailers: grpc.aio.Metadata | None) -> str | None:
    """The reason in a `google.rpc.Status` with a `google.rpc.ErrorInfo` of ours.

    Read as unknown fields: their generated code is in googleapis-common-protos, a megabyte for two numbers.
    Layout: google/rpc/status.proto and error_details.proto of googleapis/googleapis.
    """
    rich = trailers.get(_DETAILS_KEY) if trailers is not None else None
    try:
        for detail in _fields(rich, _STATUS_DETAILS) if isinstance(rich, bytes) else ():
            packed = Any.FromString(detail)
            if packed.TypeName() == _ERROR_INFO and _fields(packed.value, _INFO_DOMAIN) == [_DOMAIN]:
                return "".join(printable(reason.decode()) for reason in _fields(packed.value, _INFO_REASON)) or None
    except (DecodeError, UnicodeDecodeError):
        pass  # not a gRPC library's
    return None


def _fields(message: bytes, number: int) -> list[bytes]:
    """The strings, bytes and messages in field `number`."""
    known = UnknownFieldSet(Empty.FromString(message))
    fields = (known[index] for index in range(len(known)))
    return [field.data for field in fields if field.field_number == number and isinstance(field.data, bytes)]


def _pushback_s(trailers: grpc.aio.Metadata | None) -> float | None:
    value = trailers.get(PUSHBACK_KEY) if trailers is not None else None
    try:
        pushback_ms = int(value) if value is not None else -1
    except ValueError:
        return None
    # A negative value asks the client not to try again.
    return pushback_ms / 1000 if pushback_ms >= 0 else None
