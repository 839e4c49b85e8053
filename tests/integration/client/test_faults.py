"""A server that breaks the protocol, or damaged frames."""

import asyncio
from typing import Any

import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import (
    ConnectionLost,
    DataLoss,
    FrameClient,
    FramehaulError,
    ProtocolError,
    StreamFailed,
)
from tests.support.clips import collect
from tests.support.fake_server import Behaviour, make_latents

pytestmark = pytest.mark.asyncio


def corrupt_payload(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.payload and response.frames.first_frame >= 5:
        response.payload = bytes([response.payload[0] ^ 1]) + response.payload[1:]
    return response


def lose_a_message(number: int, response: pb.StreamResponse) -> pb.StreamResponse | None:
    return None if response.frames.first_frame == 4 else response


def repeat_frames(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.frames.first_frame == 4:
        response.frames.first_frame = 1
    return response


def cut_payload(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    response.payload = response.payload[:-1]
    return response


def drop_checksums(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("frames"):
        del response.frames.crc32c[:]
    return response


def claim_no_frames(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("frames"):
        response.frames.num_frames = 0
    return response


def miscount_frames(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("done"):
        response.done.num_frames += 1
    return response


def miscount_latents(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("done"):
        response.done.num_latents -= 1
    return response


def forget_opened(number: int, response: pb.StreamResponse) -> pb.StreamResponse | None:
    return pb.StreamResponse(latents_until=1) if number == 0 else response


def open_other_format(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.opened.pixel_format = pb.PIXEL_FORMAT_YUV420P
    return response


def open_no_pixels(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.opened.height = 0
    return response


def open_other_size(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.opened.frame_bytes += 1
    return response


def done_at_once(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.done.num_frames = 0
    return response


def overfill(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.opened.max_window_frames = 2
        response.opened.min_window_frames = 2
    return response


FAULTS = [
    (corrupt_payload, DataLoss, "crc32c"),
    (lose_a_message, DataLoss, "must come next"),
    (repeat_frames, DataLoss, "must come next"),
    (cut_payload, DataLoss, "payload of"),
    (drop_checksums, DataLoss, "checksums"),
    (claim_no_frames, DataLoss, "num_frames=0"),
    (miscount_frames, DataLoss, "the server sent 22 frames: 21 arrived"),
    (miscount_latents, DataLoss, "took 5 latents: 6 were sent"),
    (forget_opened, ProtocolError, "isn't Opened"),
    (open_other_format, ProtocolError, "pixel_format=2: rgb24"),
    (open_no_pixels, ProtocolError, "height=0"),
    (open_other_size, ProtocolError, "frame_bytes="),
    (done_at_once, ProtocolError, "Done after latent 0"),
    (overfill, ProtocolError, "the window ends at"),
]


@pytest.mark.parametrize(("edit", "error", "match"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
async def test_a_fault_of_the_server_is_found(
    target: str, behaviour: Behaviour, edit: Any, error: type[FramehaulError], match: str
) -> None:
    """Nothing wrong is handed out as a frame: the session fails, and names what is wrong."""
    behaviour.edit = edit
    async with FrameClient(target) as client:
        with pytest.raises(error, match=match) as caught:
            await collect(client, make_latents())
        assert type(caught.value) is error
        await asyncio.wait_for(behaviour.left.wait(), 2)


async def test_an_end_without_done_is_an_error(target: str, behaviour: Behaviour) -> None:
    """OK alone doesn't make a clip whole."""
    behaviour.end_after_frames = 5
    async with FrameClient(target) as client:
        with pytest.raises(ProtocolError, match="after frame 5 without Done"):
            await collect(client, make_latents())


async def test_a_server_that_goes_away_is_a_lost_connection(behaviour: Behaviour) -> None:
    """A server's death in mid-stream is told apart from one that was never there."""
    from tests.support.fake_server import fake_server

    behaviour.stop_after_frames = 5
    async with fake_server(behaviour) as target:
        client = FrameClient(target)
        await client.__aenter__()
        session = await client.session(make_latents(20), retry_for_s=0).__aenter__()
        for _ in range(5):
            await anext(session)
        await behaviour.stopped.wait()
    try:
        with pytest.raises(FramehaulError) as caught:
            await anext(session)
        assert isinstance(caught.value, ConnectionLost | StreamFailed)
    finally:
        await session.aclose()
        await client.aclose()
