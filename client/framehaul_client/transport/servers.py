"""Which server a session's calls go to: the one at the client's target, or one of those that a front there names.

Owns the connections to servers that were named. What a connection may carry is decided for each target by itself: a
token goes where it could go if the user had named that target.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

import grpc
import grpc.aio

from framehaul.address import Address
from framehaul.v1 import frames_pb2 as pb
from framehaul.v1.frames_pb2_grpc import FrameServiceStub
from framehaul_client.access import Access
from framehaul_client.core.printable import printable
from framehaul_client.errors import ProtocolError
from framehaul_client.transport.rpc import Rpc
from framehaul_client.transport.status import call_error

CALL_TIMEOUT_S: Final = 10.0
_MOST_NAMED: Final = 16
_MOST_IDLE: Final = 8
"""Connections that are kept for later sessions."""

Connect = Callable[[str], Awaitable[grpc.aio.Channel]]


class Named(NamedTuple):
    """A front's answer: addresses, the best first, and whether that one has a place."""

    targets: list[str]
    has_place: bool


class Servers:
    """The client's own connection, and those to servers that it was sent to."""

    def __init__(self, channel: grpc.aio.Channel, target: str, access: Access, connect: Connect) -> None:
        """Take `channel` to `target`, which stays the caller's; `connect` opens others, and fails at once if it can't.

        Raises:
            InvalidOption: the token would cross a network in the clear.
        """
        access.metadata(target)
        self.target = target
        self._access = access
        self._connect = connect
        self._own = channel
        self._channels: dict[str, grpc.aio.Channel] = {}
        """To named servers and fronts, in order of their last use."""
        self._num_calls: Counter[str] = Counter()
        self._fronts: set[str] = set()
        self._lock = asyncio.Lock()

    def is_front(self, target: str) -> bool:
        """Whether a front was last found there."""
        return target in self._fronts

    def note_front(self, target: str) -> None:
        """A front was found there."""
        self._fronts.add(target)

    async def start(self, target: str) -> Rpc:
        """Start a `Stream` call at `target`.

        Raises:
            InvalidOption: the token would cross a network in the clear.
            ServerUnavailable: nothing answers there.

        Cancellation: gives up connecting.
        """
        metadata = self._access.metadata(target)
        channel = await self._channel(target)
        self._num_calls[target] += 1
        return Rpc(channel, target, metadata, on_closed=partial(self._closed, target))

    async def locate(self, target: str, request: pb.LocateRequest) -> Named:
        """Ask the front at `target` where to go.

        Raises:
            FramehaulError: it can't be reached, or names none.

        Cancellation: cancels the call.
        """
        metadata = self._access.metadata(target)
        stub = FrameServiceStub(await self._channel(target))
        try:
            found = await stub.Locate(request, timeout=CALL_TIMEOUT_S, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise call_error(error, target) from error
        named = [found.target, *found.alternatives][:_MOST_NAMED]
        for each in named:
            try:
                Address.parse(each)
            except ValueError as error:
                raise ProtocolError(f"{target} names {printable(each)}: must be HOST:PORT") from error
        if target in named:  # it has become a server
            self._fronts.discard(target)
        return Named(named, found.has_place)

    async def aclose(self) -> None:
        """Close the connections to named servers. Twice is fine.

        Cancellation: those that are left are closed when they are collected.
        """
        while self._channels:
            await self._channels.popitem()[1].close()

    async def _channel(self, target: str) -> grpc.aio.Channel:
        if target == self.target:
            return self._own
        async with self._lock:
            channel = self._channels.pop(target, None) or await self._connect(target)
            self._channels[target] = channel
            idle = [each for each in self._channels if each != target and not self._num_calls[each]]
            for each in idle[: max(0, len(idle) - _MOST_IDLE)]:
                await self._channels.pop(each).close()
        return channel

    def _closed(self, target: str) -> None:
        self._num_calls -= Counter([target])
