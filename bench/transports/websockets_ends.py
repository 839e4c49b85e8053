"""websockets, uncompressed."""

from __future__ import annotations

import asyncio

import websockets.asyncio.client
import websockets.asyncio.server

from bench.transports.asyncio_ends import address_of, run_uvloop
from bench.transports.base import HOST, REQUEST, Announce, Meter, Source
from framehaul.allocator import tune_allocator


def serve_websockets(announce: Announce) -> None:
    """One binary message each, uncompressed."""
    source = Source()

    async def answer(connection: websockets.asyncio.server.ServerConnection) -> None:
        request = await connection.recv()
        assert isinstance(request, bytes)
        size, count = REQUEST.unpack(request)
        for payload in source.payloads(size, count):
            await connection.send(payload)

    async def serve() -> None:
        async with websockets.asyncio.server.serve(answer, HOST, 0, compression=None, max_size=None) as server:
            announce(address_of(next(iter(server.sockets)).getsockname()))
            await asyncio.Event().wait()

    run_uvloop(serve)


async def fetch_websockets(address: str, size: int, count: int) -> Meter:
    """`recv` of each message."""
    tune_allocator()
    meter = Meter()
    async with websockets.asyncio.client.connect(f"ws://{address}", compression=None, max_size=None) as connection:
        await connection.send(REQUEST.pack(size, count))
        for _ in range(count):
            payload = await connection.recv()
            assert isinstance(payload, bytes)
            meter.take(payload)
    return meter
