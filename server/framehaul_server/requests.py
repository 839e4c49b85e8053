"""Where a session's requests come from: a request stream, or the one request of `Render`.

Runs on the event loop. Raw bytes come in, so that malformed ones become INVALID_ARGUMENT and not gRPC's own error.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Protocol

import grpc

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope
from framehaul_pipeline.errors import InvalidInput

Request = Envelope[pb.StreamRequest]


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
        raw = await self._context.read()
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


_SHARED_MESSAGES: Final = ("open", "synthetic")
