"""What a session needs of the connection that serves it, and how its end is told from the session's. Pure."""

from __future__ import annotations

import asyncio
from typing import Protocol

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope, MalformedMessage
from framehaul_pipeline.errors import PipelineError
from framehaul_server.errors import ClientLeft, ConnectionLost, Fenced, ServerError

Request = Envelope[pb.StreamRequest]


class Connection(Protocol):
    """A client's requests, one at a time, and the way of the responses."""

    async def read(self) -> Request | None:
        """The next request; None when the client has no more.

        Cancellation: nothing is lost; the next `read` goes on.

        Raises:
            MalformedMessage: not a request.
            ConnectionLost: the client is gone.
        """

    async def send_headers(self) -> None:
        """Send the headers, before the first `write`; twice is fine.

        Only a refusal without headers is retried by gRPC clients, so not before the session is let in.

        Cancellation: the client never hears of the call's end, so only for a call that ends anyway.

        Raises:
            ConnectionLost: the client is gone.
        """

    async def write(self, message: bytes) -> None:
        """Send a response; waits for the client's flow control.

        Cancellation: the response may be lost, so end the connection.

        Raises:
            ConnectionLost: the client is gone.
        """


def is_loss(error: BaseException) -> bool:
    """Whether the connection ended and not the session."""
    return isinstance(error, asyncio.CancelledError | GeneratorExit | ConnectionLost | ClientLeft | Fenced)


def leading_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of a task group that says most: one raised on purpose, else the first."""
    told = (PipelineError, ServerError, MalformedMessage)
    errors = [leading_error(e) if isinstance(e, BaseExceptionGroup) else e for e in group.exceptions]
    purposes = (e for e in errors if isinstance(e, told) and not isinstance(e, ConnectionLost))
    return next(purposes, errors[0])
