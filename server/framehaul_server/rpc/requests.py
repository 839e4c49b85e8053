"""Where a session's requests come from: a request stream, or the one request of `Render`.

Runs on the event loop. Raw bytes come in, so that malformed ones become INVALID_ARGUMENT and not gRPC's own error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable
from typing import Any, Final, Protocol

import grpc

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope
from framehaul_pipeline.errors import InvalidInput
from framehaul_server.errors import ClientLeft, GrantExceeded, SessionCancelled

Request = Envelope[pb.StreamRequest]

_MOST_AHEAD_BYTES: Final = 64 << 10
_MESSAGE_BYTES: Final = 256
"""What a message takes beside its own bytes."""


class Requests(Protocol):
    """A session's requests, one at a time."""

    async def read(self) -> Request | None:
        """The next request; None when the client has no more.

        Cancellation: a request may be lost, so end the session.

        Raises:
            MalformedMessage: not a request.
        """


class ReadableContext(Protocol):
    """What reading needs of a `ServicerContext`; its `read` gives bytes, or `grpc.aio.EOF`."""

    def read(self) -> Awaitable[object]:
        """The next message."""


class StreamRequests:
    """The requests of a `Stream` call."""

    def __init__(self, context: ReadableContext) -> None:
        """Read from `context`."""
        self._context = context

    async def read(self) -> Request | None:
        """See `Requests.read`."""
        # One that is cancelled goes on by itself until the call ends: grpc.aio would lose more than 1 KiB with it, for
        # good (grpc/grpc#43360), and a session often ends while its client has nothing more to say.
        reading = asyncio.ensure_future(self._context.read())
        reading.add_done_callback(_retrieve)
        await asyncio.wait([reading])
        raw = reading.result()
        if raw is grpc.aio.EOF:
            return None
        assert isinstance(raw, bytes)
        return wire.split_request(raw)


class RenderRequests:
    """The request of a `Render` call, as the first and only one of an AUTO session."""

    def __init__(self, raw: bytes) -> None:
        """Serve `raw`, a serialized `RenderRequest`."""
        self._raw: bytes | None = raw

    async def read(self) -> Request | None:
        """See `Requests.read`.

        Raises:
            InvalidInput: the mode is not AUTO.
        """
        raw, self._raw = self._raw, None
        if raw is None:
            return None
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
        return Envelope(header, given.payload)


class ReadAhead:
    """The requests of an EXPLICIT session that is queued: read while it waits, so that its client's end is seen.

    Those that the session is to see are kept for it, in order. They are small: latents are not granted yet.
    """

    def __init__(self, requests: Requests) -> None:
        """Read `requests`."""
        self._requests = requests
        self._kept: deque[Request] = deque()
        self._num_bytes = 0
        self._reading: asyncio.Task[Request | None] | None = None
        """Goes on when nobody waits for it, since a cancelled one might lose a request."""

    async def watch(self) -> None:
        """Read until the client ends the session, or sends what it may not.

        Cancellation: nothing is lost; `read` goes on from here.

        Raises:
            SessionCancelled: the client asked for the end.
            ClientLeft: it closed its half of the call.
            GrantExceeded: latents, or more than is kept.
            MalformedMessage: not a request.
        """
        while (request := await self._next()) is not None:
            self._num_bytes += _MESSAGE_BYTES + request.num_bytes
            if request.header.cancel:
                raise SessionCancelled("cancelled by the client")
            if request.payload or self._num_bytes > _MOST_AHEAD_BYTES:
                raise GrantExceeded("the session is queued: no latents are granted before it is opened")
            self._kept.append(request)
        raise ClientLeft("an EXPLICIT session's request stream ended while it was queued: half-closed, or left")

    async def read(self) -> Request | None:
        """See `Requests.read`."""
        if self._kept:
            return self._kept.popleft()
        return await (self._requests.read() if self._reading is None else self._next())

    def close(self) -> None:
        """Stop reading; twice is fine."""
        self._kept.clear()
        if self._reading is not None:
            self._reading.cancel()

    async def _next(self) -> Request | None:
        if self._reading is None:
            self._reading = asyncio.create_task(self._requests.read())
            self._reading.add_done_callback(_retrieve)
        reading = self._reading
        await asyncio.wait([reading])
        self._reading = None
        return reading.result()


def _retrieve(reading: asyncio.Task[Any]) -> None:
    """Nobody may be there any more to hear of an error."""
    with contextlib.suppress(asyncio.CancelledError):
        reading.exception()


_SHARED_MESSAGES: Final = ("open", "synthetic")
