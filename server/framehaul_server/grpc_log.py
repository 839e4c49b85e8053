"""Keeps out of the log what gRPC writes, with a traceback, whenever a client leaves while it is answered.

`session_end` says the same in a line, and clients could fill a disk with tracebacks.
"""

from __future__ import annotations

import logging
from typing import Final

import grpc

_LOGGER: Final = "grpc._cython.cygrpc"


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record of gRPC's says more than that a call was over before its answer."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, grpc.aio.BaseError) or isinstance(error, grpc.aio.UsageError)


def quieten() -> None:
    """Filter gRPC's log from now on; twice is fine."""
    logging.getLogger(_LOGGER).addFilter(is_news)
