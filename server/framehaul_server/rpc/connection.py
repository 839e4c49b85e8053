"""A session's connection: a gRPC call, with gRPC's errors as ours. Runs on the event loop.

Raw bytes come in, so that malformed ones become INVALID_ARGUMENT and not gRPC's own error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

import grpc

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import InvalidInput
from framehaul_server.errors import ConnectionLost
from framehaul_server.session.connection import Request

Context = grpc.aio.ServicerContext[bytes, bytes]

_SHARED_MESSAGES: Final = ("open", "synthetic")


class Messages:
    """What a call's client sends, one message at a time; gRPC holds a window of what nobody asks for, and no more."""

    def __init__(self, context: Context) -> None:
        """Read from `context`."""
        self._context = context
        self._reading: asyncio.Future[Any] | None = None

    async def read(self) -> bytes | None:
        """The next message; None when the client has no more.

        Cancellation: nothing is lost; the next `read` goes on.

        Raises:
            ConnectionLost: the client is gone.
        """
        # One that is cancelled goes on by itself until the call ends: grpc.aio would lose more than 1 KiB with it, for
        # good (grpc/grpc#43360), and a session often ends while its client has nothing more to say.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._context.read())
            self._reading.add_done_callback(_retrieve)
        reading = self._reading
        await asyncio.wait([reading])
        self._reading = None
        with own_errors():
            raw: Any = reading.result()
        return None if raw is grpc.aio.EOF else raw


class StreamConnection:
    """A `Stream` call; see `Connection`."""

    def __init__(self, context: Context) -> None:
        """Read from `context` and write to it."""
        self._context = context
        self._messages = Messages(context)
        self._headers_sent = False

    async def read(self) -> Request | None:
        """See `Connection.read`."""
        raw = await self._messages.read()
        return None if raw is None else self._request(raw)

    async def send_headers(self) -> None:
        """See `Connection.send_headers`."""
        # Not left to the first write: if that one is cancelled, grpc.aio sends the headers a second time with the
        # status, which fails, and the client never hears of the end.
        if not self._headers_sent:
            self._headers_sent = True
            with own_errors():
                await self._context.send_initial_metadata(())

    async def write(self, message: bytes) -> None:
        """See `Connection.write`."""
        with own_errors():
            await self._context.write(message)

    def _request(self, raw: bytes) -> Request:
        return wire.split_request(raw)


class RenderConnection(StreamConnection):
    """A `Render` call: its request is the first and only one of an AUTO session."""

    def __init__(self, context: Context) -> None:
        """Read from `context` and write to it."""
        super().__init__(context)
        self._has_read = False

    async def read(self) -> Request | None:
        """See `Connection.read`.

        Raises:
            InvalidInput: the mode is not AUTO.
        """
        if self._has_read:
            return None
        request = await super().read()
        self._has_read = True
        return request

    def _request(self, raw: bytes) -> Request:
        given = wire.split(raw, pb.RenderRequest)
        render = given.header
        if render.open.mode == pb.MODE_EXPLICIT:
            raise InvalidInput("open.mode", "MODE_EXPLICIT (2)", "AUTO in Render; Stream knows both")
        header = pb.StreamRequest(num_latents=render.num_latents)
        for field in _SHARED_MESSAGES:
            if render.HasField(field):
                getattr(header, field).CopyFrom(getattr(render, field))
        if render.HasField("crc32c"):
            header.crc32c = render.crc32c
        return wire.Envelope(header, given.payload)


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """grpc.aio reports a client that left by ordinary exceptions; its `UsageError` is a mistake of ours."""
    try:
        yield
    except grpc.aio.UsageError:
        raise
    except grpc.aio.BaseError as error:
        raise ConnectionLost(error) from error


def _retrieve(reading: asyncio.Future[Any]) -> None:
    """Nobody may be there any more to hear of an error."""
    if not reading.cancelled():
        reading.exception()
