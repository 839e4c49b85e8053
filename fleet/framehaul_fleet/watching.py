"""Keeps a table of servers up to date by asking each of them every second. Runs on the event loop.

A name with several addresses stands for a server at each. It is looked up again now and then, so servers come and go
with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from framehaul.address import Address
from framehaul.v1 import frames_pb2 as pb
from framehaul.v1.frames_pb2_grpc import FrameServiceStub
from framehaul_client.access import Access
from framehaul_client.errors import FramehaulError
from framehaul_client.transport.connection import connect
from framehaul_server import logs
from framehaul_server.core.placement import Placement

if TYPE_CHECKING:
    from framehaul.v1.frames_pb2_grpc import FrameServiceAsyncStub

ASK_S: Final = 1.0
RESOLVE_S: Final = 5.0
_ANSWER_S: Final = 2.0
_CONNECT_S: Final = 5.0
_LOOKAHEAD_BYTES: Final = 64 << 10
"""Answers are small."""

Resolve = Callable[[Address], Awaitable[list[Address]]]

_log = logging.getLogger(__name__)


async def resolve(address: Address) -> list[Address]:
    """The address itself, or those that its name stands for where that are several; empty while it can't be told."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        _log.warning("%s", logs.line("not_resolved", server=address, reason=error))
        return []
    hosts = list(dict.fromkeys(str(where[0]) for *_, where in found))
    return [address] if len(hosts) == 1 else [Address(host=host, port=address.port) for host in hosts]


class Watching:
    """Owner of a connection and a task for each server."""

    def __init__(
        self,
        servers: Sequence[Address],
        access: Access,
        placement: Placement,
        *,
        resolve: Resolve = resolve,
        resolve_s: float = RESOLVE_S,
    ) -> None:
        """Prepare to keep `placement` up to date about `servers`, each one or several by its name.

        What a name stands for is asked of `resolve` every `resolve_s`.

        Raises:
            InvalidOption: the token would cross a network in the clear.
        """
        for server in servers:
            access.metadata(str(server))
        self._servers = servers
        self._access = access
        self._placement = placement
        self._resolve = resolve
        self._resolve_s = resolve_s
        self._asking: dict[str, asyncio.Task[None]] = {}
        self.asked: asyncio.Event = asyncio.Event()
        """A server has answered."""

    async def run(self) -> None:
        """Watch, for ever.

        Cancellation: the way to end it.
        """
        known: dict[Address, list[Address]] = {}
        try:
            while True:
                for server in self._servers:
                    # A name server that is away for a moment takes no servers with it.
                    known[server] = await self._resolve(server) or known.get(server, [])
                self._watch({str(each) for found in known.values() for each in found})
                await asyncio.sleep(self._resolve_s)
        finally:
            tasks = list(self._asking.values())
            self._watch(set())
            await asyncio.gather(*tasks, return_exceptions=True)

    def _watch(self, targets: set[str]) -> None:
        for target in targets - set(self._asking):
            self._asking[target] = asyncio.create_task(self._ask_on(target), name=f"asking {target}")
        for target in set(self._asking) - targets:
            self._asking.pop(target).cancel()
            self._placement.remove(target)

    async def _ask_on(self, target: str) -> None:
        while True:
            try:
                channel = await connect(target, _CONNECT_S, _LOOKAHEAD_BYTES, self._access)
            except FramehaulError as error:
                self._lost(target, error)
            else:
                try:
                    await self._ask_while_there(target, FrameServiceStub(channel))
                finally:
                    await channel.close()
            await asyncio.sleep(ASK_S)

    async def _ask_while_there(self, target: str, stub: FrameServiceAsyncStub) -> None:
        is_there = True
        while is_there:
            is_there = await self._ask(target, stub)
            await asyncio.sleep(ASK_S)

    async def _ask(self, target: str, stub: FrameServiceAsyncStub) -> bool:
        """Take a report; False where the server can't be reached any more."""
        asked_s = time.monotonic()
        try:
            metadata = self._access.metadata(target)
            info = await stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=_ANSWER_S, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._lost(target, error.details())
                return False
            # It is there, and says nothing, or not to us: the table lets its last report grow old.
            _log.warning("%s", logs.line("no_report", server=target, code=error.code().name, reason=error.details()))
            return True
        self._placement.report(target, info, asked_s)
        self.asked.set()
        return True

    def _lost(self, target: str, reason: object) -> None:
        self._placement.lost(target)
        _log.warning("%s", logs.line("server_lost", server=target, reason=reason))
