"""Where a handler's exceptions end: known ones become their status, unknown ones INTERNAL and a traceback in the log.

A client that left is no error: what grpc.aio said of it goes back to grpc.aio. By then the work has released what it
held, in its own `finally`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable
from typing import Final, TypeVar

import grpc

from framehaul_pipeline.errors import Overloaded
from framehaul_server import logs
from framehaul_server.errors import ConnectionLost
from framehaul_server.logs import SessionRecord
from framehaul_server.rpc.connection import Context
from framehaul_server.rpc.status import Status, internal, status_of

_GRPC_LOGGER: Final = "grpc._cython.cygrpc"
_REQUEST_ID_BYTES: Final = 6

_log = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")


def new_record(method: str, context: Context) -> SessionRecord:
    """The record of a call that came in just now."""
    return SessionRecord(request_id=secrets.token_hex(_REQUEST_ID_BYTES), peer=context.peer(), method=method)


async def guard(context: Context, record: SessionRecord, work: Awaitable[ResultT]) -> ResultT:
    """Await `work`; end the RPC with a status when it fails, and leave the cause in `record`.

    Cancellation: passes through to `work`.

    Raises:
        grpc.aio.BaseError: the RPC was ended with a status, or the client is gone.
    """
    try:
        return await work
    except (asyncio.CancelledError, GeneratorExit):
        record.cause = "client_left"
        raise
    except ConnectionLost as loss:
        record.cause = "client_left"
        raise loss.reason from None
    except Exception as error:
        status = status_of(error) or _unforeseen(error, record.request_id)
        record.lack = error.lack if isinstance(error, Overloaded) else None
    record.cause = status.code.name.lower()
    record.details = status.details
    await context.abort(status.code, status.details, status.trailers)


def _unforeseen(error: Exception, request_id: str) -> Status:
    _log.error(logs.line("internal_error", id=request_id), exc_info=error)
    return internal(request_id)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record of gRPC's says more than that a call was over before its answer."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, grpc.aio.BaseError) or isinstance(error, grpc.aio.UsageError)


def quieten_grpc() -> None:
    """Keep out of the log what gRPC writes, with a traceback, whenever a client leaves while it is answered.

    `session_end` says the same in a line, and clients could fill a disk with tracebacks. Twice is fine.
    """
    logging.getLogger(_GRPC_LOGGER).addFilter(is_news)
