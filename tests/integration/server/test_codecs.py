"""Our payload codec and protobuf's own, at either end: all four pairs move the same content."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from crc32c import crc32c

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul.v1 import frames_pb2_grpc
from tests.support.driven_service import Server
from tests.support.fakes import frame, latents, opening

NUM_LATENTS = 3
EXPECTED = [crc32c(frame(index)) for index in range(4 * NUM_LATENTS)]
REQUESTS = [
    pb.StreamRequest(open=opening(), index=0, latents=latents(2)),
    pb.StreamRequest(latents=latents(1), crc32c=crc32c(latents(1)), end_of_latents=True),
]


class GeneratedServicer(frames_pb2_grpc.FrameServiceServicer):
    """Answers as our server does, through protobuf alone."""

    async def Stream(self, request_iterator, context):  # type: ignore[no-untyped-def]
        opened, num_latents = None, 0
        async for message in request_iterator:
            opened = message.open if message.HasField("open") else opened
            num_latents += len(message.latents) // len(latents(1))
        assert opened == opening()
        yield pb.StreamResponse(opened=pb.Opened(frame_bytes=len(frame(0))))
        for first in range(0, 4 * num_latents, 3):
            frames = [frame(index) for index in range(first, min(first + 3, 4 * num_latents))]
            yield pb.StreamResponse(
                frames=pb.Frames(first_frame=first, num_frames=len(frames), crc32c=[crc32c(each) for each in frames]),
                payload=b"".join(frames),
            )
        yield pb.StreamResponse(done=pb.Done(num_frames=4 * num_latents, num_latents=num_latents))


@asynccontextmanager
async def serving(*, generated: bool) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    if generated:
        frames_pb2_grpc.add_FrameServiceServicer_to_server(GeneratedServicer(), server)  # type: ignore[abstract]
    else:
        server.add_generic_rpc_handlers((Server(max_sessions=4).service.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def through_stubs(channel: grpc.aio.Channel) -> tuple[list[int], pb.StreamResponse]:
    stub = frames_pb2_grpc.FrameServiceStub(channel)
    found, last = [], pb.StreamResponse()
    async for response in stub.Stream(iter(REQUESTS)):
        size = len(frame(0))
        found += [crc32c(response.payload[at : at + size]) for at in range(0, len(response.payload), size)]
        last = response
    return found, last


async def through_our_codec(channel: grpc.aio.Channel) -> tuple[list[int], pb.StreamResponse]:
    def join(message: pb.StreamRequest) -> bytes:
        header = pb.StreamRequest()
        header.CopyFrom(message)
        header.ClearField("latents")
        return wire.join(header, (message.latents,))

    call = channel.stream_stream(
        f"/{wire.SERVICE}/Stream", request_serializer=join, response_deserializer=wire.split_response
    )
    found, last = [], pb.StreamResponse()
    async for response in call(iter(REQUESTS)):
        size = len(frame(0))
        found += [crc32c(response.payload[at : at + size]) for at in range(0, len(response.payload), size)]
        last = response.header
    return found, last


@pytest.mark.asyncio
@pytest.mark.parametrize("client", [through_stubs, through_our_codec])
@pytest.mark.parametrize("generated_server", [False, True])
async def test_every_pair_of_codecs_moves_the_same_frames(client, generated_server: bool) -> None:  # type: ignore[no-untyped-def]
    async with serving(generated=generated_server) as channel:
        found, last = await client(channel)
    # The fake worker's leases don't carry real checksums, so content is compared by our own.
    assert found == EXPECTED
    assert (last.done.num_frames, last.done.num_latents) == (4 * NUM_LATENTS, NUM_LATENTS)
