"""One `Stream` RPC: whole messages in and out of gRPC, and its failures as this package's errors.

When a write fails because the server has ended the call, grpc.aio replaces the server's status with an INTERNAL of its
own, and `read()` then drops messages that are still there (grpc/grpc#36066, open in 1.85). Iterating over the responses
drops none, so that is done here. The INTERNAL is ignored: the server's own status came before it or comes after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar, cast

import grpc
import grpc.aio

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.access import Metadata
from framehaul_client.errors import ProtocolError
from framehaul_client.transport.spans import span_metadata
from framehaul_client.transport.status import Status, client_error

_WRITE_FAILED: Final = "Internal error from Core"
_STATUS_TIMEOUT_S: Final = 1.0
_STATUS_INTERVAL_S: Final = 0.005

ResultT = TypeVar("ResultT")


class RpcEnded(Exception):
    """The call is over; `Rpc.receive` tells why."""


class Rpc:
    """Owner of a gRPC call. Any number of tasks may send, one may receive."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        target: str,
        metadata: Metadata = (),
        *,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the call on `channel` with `metadata`; errors name `target`; `on_closed` hears that it was closed."""
        self._on_closed = on_closed
        self._target = target
        # Identity serialisers: the payload must not pass through protobuf.
        start: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{wire.SERVICE}/Stream")
        self._call = start(metadata=metadata + span_metadata())
        self._call.add_done_callback(self._note_status)
        self._responses = cast(AsyncGenerator[bytes, None], aiter(self._call))
        self._lock = asyncio.Lock()  # gRPC takes one write at a time; fair, so that nobody waits for more than one
        self._answered = False
        self._status: Status | None = None

    async def send(self, header: pb.StreamRequest, parts: Iterable[bytes | memoryview] = ()) -> None:
        """Send one message, with `parts` as its payload.

        Raises:
            RpcEnded: the call ended before or while this was sent.

        Cancellation: cancels the call.
        """
        async with self._lock:
            try:
                await self._call.write(wire.join(header, parts))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                raise RpcEnded from error

    async def receive(self) -> wire.Envelope[pb.StreamResponse] | None:
        """Return the next message, or None when the server ended the call well.

        Raises:
            FramehaulError: the call failed; the class tells how.

        Cancellation: cancels the call.
        """
        raw = None
        with contextlib.suppress(grpc.aio.AioRpcError):  # the status says more
            raw = await anext(self._responses, None)
        if raw is None:
            status = await self._final_status()
            if status.code is not grpc.StatusCode.OK:
                raise client_error(status, self._target, connected=self._answered)
            return None
        self._answered = True
        try:
            return wire.split_response(raw)
        except wire.MalformedMessage as error:
            raise ProtocolError(f"{self._target}: {error}") from error

    async def finish(self) -> None:
        """Close the sending half; the call then ends when the server ends it.

        Cancellation: cancels the call.
        """
        async with self._lock:
            with contextlib.suppress(grpc.aio.InternalError):  # it has ended already
                await self._call.done_writing()

    async def aclose(self) -> None:
        """Cancel the call and let go of it; nobody may be receiving.

        Cancellation: the call is cancelled all the same.
        """
        self._call.cancel()
        on_closed, self._on_closed = self._on_closed, lambda: None
        on_closed()
        await self._responses.aclose()

    async def _final_status(self) -> Status:
        """Return the server's status, which may come after grpc.aio's own, or before it."""
        deadline_s = time.monotonic() + _STATUS_TIMEOUT_S
        while self._status is None and time.monotonic() < deadline_s:
            # gRPC doesn't tell when it replaces the status, so this has to look.
            await asyncio.sleep(_STATUS_INTERVAL_S)
            self._note_status(self._call)
        return self._status or _status_of(self._call)

    def _note_status(self, call: Any) -> None:
        """Keep the status; grpc.aio calls this when it first sets one."""
        status = _status_of(call)
        if self._status is None and (status.code, status.details) != (grpc.StatusCode.INTERNAL, _WRITE_FAILED):
            self._status = status


def _status_of(call: Any) -> Status:
    """Read the status of a call that is done."""
    return Status(_completed(call.code()), _completed(call.details()), _completed(call.trailing_metadata()))


def _completed(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Return the result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast(ResultT, stop.value)
    raise RuntimeError("a finished call made its status wait")
