"""aiohttp: a chunked answer."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

from bench.transports.asyncio_ends import BUFFER_BYTES, address_of, run_uvloop
from bench.transports.base import HOST, Announce, Meter, Source
from framehaul.allocator import tune_allocator


def serve_aiohttp(announce: Announce) -> None:
    """A chunked answer, each message one write."""
    source = Source()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for payload in source.payloads(int(request.query["size"]), int(request.query["count"])):
            await response.write(payload)
        await response.write_eof()
        return response

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        announce(address_of(runner.addresses[0]))
        await asyncio.Event().wait()

    run_uvloop(serve)


async def fetch_aiohttp(address: str, size: int, count: int) -> Meter:
    """`readexactly` of each message."""
    tune_allocator()
    meter = Meter()
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=BUFFER_BYTES) as session,
        session.get(f"http://{address}/?size={size}&count={count}") as response,
    ):
        for _ in range(count):
            meter.take(await response.content.readexactly(size))
    return meter
