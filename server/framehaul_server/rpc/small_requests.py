"""Reads the requests of all methods but those that take latents: a few of a few KiB at a time, each for a few seconds.

Left to itself, gRPC reads the one request of a unary method before its handler runs, up to the server's limit for all
methods. So each method becomes that of a stream, which reads what it asks for; on the wire nothing is different. Of
calls that aren't over, since they watch or nobody reads their answers, a connection may have only so many. Runs on the
event loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from framehaul.wire import MalformedMessage
from framehaul_pipeline.errors import Lack, OutOfOrder, Overloaded
from framehaul_server.access.callers import Identify
from framehaul_server.admission.reading import Reader, Reading
from framehaul_server.errors import GrantExceeded, NotAuthenticated
from framehaul_server.rpc.boundary import guard, new_record
from framehaul_server.rpc.connection import Context, Messages
from framehaul_server.rpc.service import LARGE

MAX_BYTES: Final = 4 << 10
GRACE_S: Final = 0.5
TIMEOUT_S: Final = 5.0

MOST_OF_A_CONNECTION: Final = 64
"""As many as it has room for beside its sessions (`options.py`)."""
MOST_OF_A_TENANT: Final = 256
"""Once it has so many, a connection of its may have one: whoever asks on a new one is answered."""

_RETRY_AFTER_S: Final = 1.0
_MOST_READ: Final = 2
"""At a time: each may hold as much as the server's limit lets it announce."""
_STRANGERS: Final = ""
"""Where there are tenants, none is called so."""


class SmallRequests(grpc.aio.ServerInterceptor):
    """Reads them for the handlers."""

    def __init__(self, identify: Identify) -> None:
        """Tell callers apart by `identify`."""
        self._identify = identify
        self._reading = Reading(_MOST_READ, grace_s=GRACE_S, timeout_s=TIMEOUT_S)
        self._unfinished = _Unfinished()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Give the method's handler, such that its requests are read here."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method in LARGE:
            return handler
        tenant = self._tenant(handler_call_details)
        requests = partial(_Requests, self._reading, self._unfinished, tenant, method, handler)
        if handler.request_streaming:
            return _streams(handler, requests)
        return _answers_with_stream(handler, requests) if handler.response_streaming else _answers(handler, requests)

    def _tenant(self, details: grpc.HandlerCallDetails) -> str:
        try:
            return self._identify(details.invocation_metadata or ()).tenant.name
        except NotAuthenticated:
            return _STRANGERS


class _Unfinished:
    """Counts calls until gRPC lets go of them: when their clients have read how they ended, or left."""

    def __init__(self) -> None:
        self._tenants: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()

    def begin(self, reader: Reader, context: Context) -> None:
        """Count a call.

        Raises:
            Overloaded: its connection has as many as it may.
        """
        num_calls, many = self._connections[reader.connection], self._tenants[reader.tenant] >= MOST_OF_A_TENANT
        most = 1 if many else MOST_OF_A_CONNECTION
        if num_calls >= most:
            raise Overloaded(
                f"{num_calls} calls of this connection aren't over, of at most {most}: read their answers, or end them",
                Lack.CALLS,
                retry_after_s=_RETRY_AFTER_S,
            )
        self._count(reader, 1)
        # types-grpcio has a class where a function is meant.
        context.add_done_callback(lambda _: self._count(reader, -1))  # type: ignore[arg-type]

    def _count(self, reader: Reader, step: int) -> None:
        for counter, name in ((self._tenants, reader.tenant), (self._connections, reader.connection)):
            counter[name] += step
            if not counter[name]:
                del counter[name]


class _Requests:
    """A call's requests, as its handler takes them."""

    def __init__(
        self, reading: Reading, unfinished: _Unfinished, tenant: str, method: str, handler: Any, context: Context
    ) -> None:
        self._reading = reading
        self._unfinished = unfinished
        self._method = method
        self._parse = handler.request_deserializer
        self._context = context
        self._reader = Reader(tenant, context.peer())
        self._messages = Messages(context)

    async def one(self) -> Any:
        """The first of them; the call is over when there is none, or none that may be."""
        return await self._guarded(self._one())

    async def all(self) -> AsyncIterator[Any]:
        """One after the other; the call is over when one comes that may not be."""
        await self._guarded(self._begin())
        while (request := await self._guarded(self._next())) is not None:
            yield request

    async def _guarded(self, work: Awaitable[Any]) -> Any:
        return await guard(self._context, new_record(self._method, self._context), work)

    async def _begin(self) -> None:
        self._unfinished.begin(self._reader, self._context)

    async def _one(self) -> Any:
        await self._begin()
        request = await self._next()
        if request is None:
            raise OutOfOrder("the call ended before its request")
        return request

    async def _next(self) -> Any:
        raw = await self._reading.read(self._reader, self._messages.read)
        if raw is None:
            return None
        if len(raw) > MAX_BYTES:
            raise GrantExceeded(f"a request of {len(raw)} bytes: {self._method} takes at most {MAX_BYTES}")
        if self._parse is None:
            return raw
        try:
            return self._parse(raw)
        except DecodeError as error:
            raise MalformedMessage(f"not a request of {self._method}: {error}") from error


_MakeRequests = Callable[[Context], _Requests]


def _answers(handler: Any, requests: _MakeRequests) -> Any:
    async def answer(_requests: object, context: Context) -> Any:
        return await handler.unary_unary(await requests(context).one(), context)

    return grpc.stream_unary_rpc_method_handler(answer, response_serializer=handler.response_serializer)


def _answers_with_stream(handler: Any, requests: _MakeRequests) -> Any:
    async def answer(_requests: object, context: Context) -> None:
        await handler.unary_stream(await requests(context).one(), context)

    return grpc.stream_stream_rpc_method_handler(answer, response_serializer=handler.response_serializer)


def _streams(handler: Any, requests: _MakeRequests) -> Any:
    async def answer(_requests: object, context: Context) -> AsyncIterator[Any]:
        async for response in handler.stream_stream(requests(context).all(), context):
            yield response

    return grpc.stream_stream_rpc_method_handler(answer, response_serializer=handler.response_serializer)
