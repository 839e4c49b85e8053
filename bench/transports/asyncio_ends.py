"""Plain asyncio streams, and how all servers of asyncio are run here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import uvloop

from bench.transports.base import HOST, REQUEST, Announce, Meter, Source
from framehaul.allocator import tune_allocator

BUFFER_BYTES: Final = 4 << 20


def serve_streams(announce: Announce) -> None:
    """`asyncio.start_server`."""
    source = Source()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size, count = REQUEST.unpack(await reader.readexactly(REQUEST.size))
        for payload in source.payloads(size, count):
            writer.write(payload)
            await writer.drain()
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, HOST, 0)
        announce(address_of(server.sockets[0].getsockname()))
        await server.serve_forever()

    run_uvloop(serve)


async def fetch_streams(address: str, size: int, count: int) -> Meter:
    """`readexactly` of each message."""
    tune_allocator()
    meter = Meter()
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=BUFFER_BYTES)
    writer.write(REQUEST.pack(size, count))
    for _ in range(count):
        meter.take(await reader.readexactly(size))
    writer.close()
    await writer.wait_closed()
    return meter


def run_uvloop(serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a server as the frame server runs: uvloop, tuned allocator."""
    tune_allocator()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def address_of(name: tuple[str, int]) -> str:
    """`HOST:PORT` of a socket's name."""
    return f"{name[0]}:{name[1]}"
