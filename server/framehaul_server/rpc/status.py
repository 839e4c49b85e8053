"""The one table from errors to gRPC statuses. docs/protocol.md ("Statuses") says the same to client authors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RichStatus
from grpc_status import rpc_status

from framehaul.wire import MalformedMessage
from framehaul_pipeline import errors as pipeline
from framehaul_server import errors as server

_CODES: Final[tuple[tuple[type[Exception], grpc.StatusCode], ...]] = (
    (pipeline.InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (MalformedMessage, grpc.StatusCode.INVALID_ARGUMENT),
    (pipeline.NotFound, grpc.StatusCode.NOT_FOUND),
    (pipeline.OutOfOrder, grpc.StatusCode.FAILED_PRECONDITION),
    (pipeline.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (pipeline.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (pipeline.DataLoss, grpc.StatusCode.DATA_LOSS),
    (server.Elsewhere, grpc.StatusCode.FAILED_PRECONDITION),
    (server.ClientLeft, grpc.StatusCode.CANCELLED),
    (server.ClientSilent, grpc.StatusCode.DEADLINE_EXCEEDED),
    (server.ClientStalled, grpc.StatusCode.ABORTED),
    (pipeline.WorkersKilled, grpc.StatusCode.ABORTED),
    (server.Fenced, grpc.StatusCode.CANCELLED),
    (server.GrantExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (server.NotAuthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (server.NotPermitted, grpc.StatusCode.PERMISSION_DENIED),
    (server.SessionCancelled, grpc.StatusCode.CANCELLED),
)

_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (server.ClientStalled, "CLIENT_STALLED"),
    (server.Elsewhere, "FRONT"),
    (pipeline.WorkersKilled, "WORKERS_KILLED"),
    (pipeline.ReplayDiffers, "REPLAY_DIFFERS"),
    (pipeline.DataLoss, "CHECKSUM_DIFFERS"),
)
"""What tells errors apart that share a code and want different answers."""
_DOMAIN: Final = "framehaul"

_PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
_DO_NOT_RETRY: Final = "-1"
_MAX_DETAILS_CHARACTERS: Final = 1000
"""Statuses travel in trailers, which every gRPC library limits to a few kilobytes."""


Trailers = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How an RPC ends."""

    code: grpc.StatusCode
    details: str
    trailers: Trailers = ()


def status_of(error: Exception) -> Status | None:
    """The status that tells a client of `error`; None for an error that nobody raised on purpose."""
    for error_type, code in _CODES:
        if isinstance(error, error_type):
            details = str(error)[:_MAX_DETAILS_CHARACTERS]
            return Status(code=code, details=details, trailers=_trailers(error, code, details))
    return None


def internal(request_id: str) -> Status:
    """The status of an unforeseen error: its text stays in the log, found by `request_id`."""
    return Status(code=grpc.StatusCode.INTERNAL, details=f"internal error; the server's log knows it as {request_id}")


def _trailers(error: Exception, code: grpc.StatusCode, details: str) -> Trailers:
    if isinstance(error, pipeline.Overloaded):
        retry_after_ms = round(error.retry_after_s * 1000)
        delay = Duration()
        delay.FromMilliseconds(retry_after_ms)
        return (_PUSHBACK_KEY, str(retry_after_ms)), *_rich(code, details, RetryInfo(retry_delay=delay))
    if isinstance(error, server.GrantExceeded):
        return ((_PUSHBACK_KEY, _DO_NOT_RETRY),)
    reason = next((reason for error_type, reason in _REASONS if isinstance(error, error_type)), None)
    if reason is None:
        return ()
    metadata = {"targets": ",".join(error.targets)} if isinstance(error, server.Elsewhere) else {}
    return _rich(code, details, ErrorInfo(reason=reason, domain=_DOMAIN, metadata=metadata))


def _rich(code: grpc.StatusCode, details: str, detail: Message) -> Trailers:
    rich = RichStatus(code=code.value[0], message=details)
    rich.details.add().Pack(detail)
    return tuple(rpc_status.to_status(rich).trailing_metadata)
