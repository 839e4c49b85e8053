"""gRPC: our codec, channel options and allocator, and what generated stubs give out of the box."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import uvloop

from bench.transports.base import HOST, REQUEST, Announce, Meter, Source
from framehaul import wire
from framehaul.allocator import tune_allocator
from framehaul.v1 import frames_pb2 as pb
from framehaul.v1 import frames_pb2_grpc as stubs
from framehaul_client.transport.connection import channel_options
from framehaul_server.rpc.options import server_options

_METHOD: Final = f"/{wire.SERVICE}/Render"
_ANY_SIZE: Final = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class _OurService(grpc.GenericRpcHandler):
    """`Render` as raw bytes, joined by our codec from the source's memory."""

    def __init__(self) -> None:
        self._source = Source()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        del handler_call_details
        return grpc.unary_stream_rpc_method_handler(self._render)

    async def _render(self, request: bytes, context: Any) -> None:
        size, count = REQUEST.unpack(request)
        for index, payload in enumerate(self._source.payloads(size, count)):
            header = pb.StreamResponse(frames=pb.Frames(first_frame=index, num_frames=1, crc32c=[index]))
            await context.write(wire.join(header, (payload,)))


class _StockService(stubs.FrameServiceServicer):
    """`Render` as generated stubs invite one to write it."""

    def __init__(self) -> None:
        self._source = Source()

    async def Render(self, request: pb.RenderRequest, context: Any) -> AsyncIterator[pb.StreamResponse]:
        size, count = REQUEST.unpack(request.latents)
        for index, payload in enumerate(self._source.payloads(size, count)):
            yield pb.StreamResponse(
                frames=pb.Frames(first_frame=index, num_frames=1, crc32c=[index]), payload=bytes(payload)
            )


def serve_ours(announce: Announce) -> None:
    """As the frame server does: uvloop, tuned allocator, generic handler."""
    tune_allocator()

    async def serve() -> None:
        server = grpc.aio.server(options=server_options(max_request_bytes=1 << 20, max_calls=128, keepalive_s=10.0))
        server.add_generic_rpc_handlers((_OurService(),))
        await _run(server, announce)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


async def fetch_ours(address: str, size: int, count: int) -> Meter:
    """As the client library does, with its allocator tuned as the `client` command has it."""
    tune_allocator()
    meter = Meter()
    async with grpc.aio.insecure_channel(address, options=channel_options()) as channel:
        start: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(_METHOD)
        async for raw in start(REQUEST.pack(size, count)):
            meter.take(wire.split_response(raw).payload)
    return meter


def serve_stock(announce: Announce) -> None:
    """Generated servicer, default loop and allocator."""

    async def serve() -> None:
        server = grpc.aio.server(options=_ANY_SIZE)
        service: Any = _StockService
        stubs.add_FrameServiceServicer_to_server(service(), server)
        await _run(server, announce)

    asyncio.run(serve())


async def fetch_stock(address: str, size: int, count: int) -> Meter:
    """Generated stub; only the limit on message size is lifted, without which nothing comes through."""
    meter = Meter()
    async with grpc.aio.insecure_channel(address, options=_ANY_SIZE) as channel:
        stub: Any = stubs.FrameServiceStub(channel)
        async for response in stub.Render(pb.RenderRequest(latents=REQUEST.pack(size, count))):
            meter.take(response.payload)
    return meter


def serve_tuned_stock(announce: Announce) -> None:
    """Generated servicer, tuned allocator."""
    tune_allocator()
    serve_stock(announce)


async def fetch_tuned_stock(address: str, size: int, count: int) -> Meter:
    """Generated stub, tuned allocator."""
    tune_allocator()
    return await fetch_stock(address, size, count)


async def _run(server: grpc.aio.Server, announce: Announce) -> None:
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    announce(f"{HOST}:{port}")
    await server.wait_for_termination()
