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
from tests.support.fake_server import Behaviour, Edit, fake_server, make_latents

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


def forget_opened(number: int, response: pb.StreamResponse) -> pb.StreamResponse | None:
    return pb.StreamResponse(latents_until=1) if number == 0 else response


def wrong(field: str, **changes: Any) -> Edit:
    """Each message with this field has other values in it; functions change what is there."""

    def edit(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
        if response.HasField(field):  # type: ignore[arg-type]
            message = getattr(response, field)
            for name, change in changes.items():
                setattr(message, name, change(getattr(message, name)) if callable(change) else change)
        return response

    return edit


def drop_checksums(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    response.frames.crc32c.clear()
    return response


def done_at_once(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.done.num_frames = 0
    return response


FAULTS = [
    (corrupt_payload, DataLoss, "crc32c"),
    (lose_a_message, DataLoss, "must come next"),
    (repeat_frames, DataLoss, "must come next"),
    (cut_payload, DataLoss, "payload of"),
    (drop_checksums, DataLoss, "checksums"),
    (wrong("frames", num_frames=0), DataLoss, "num_frames=0"),
    (wrong("done", num_frames=lambda count: count + 1), DataLoss, "the server sent 22 frames: 21 arrived"),
    (wrong("done", num_latents=lambda count: count - 1), DataLoss, "took 5 latents: 6 were sent"),
    (forget_opened, ProtocolError, "isn't Opened"),
    (wrong("opened", pixel_format=pb.PIXEL_FORMAT_YUV420P), ProtocolError, "pixel_format=2: rgb24"),
    (wrong("opened", height=0), ProtocolError, "height=0"),
    (wrong("opened", frame_bytes=lambda size: size + 1), ProtocolError, "frame_bytes="),
    (done_at_once, ProtocolError, "Done after latent 0"),
    (wrong("opened", max_window_frames=2, min_window_frames=2), ProtocolError, "the window ends at"),
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
