"""A server that breaks the protocol, or damaged frames."""

import asyncio
from typing import Any

import crc32c
import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import (
    ConnectionLost,
    DataLoss,
    FrameClient,
    FramehaulError,
    GaveUp,
    ProtocolError,
    ServerUnavailable,
    StreamFailed,
)
from tests.support.clips import collect
from tests.support.fake_server import SESSION_ID, Behaviour, Edit, fake_server, make_latents

pytestmark = pytest.mark.asyncio


def corrupt_payload(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.payload and response.frames.first_frame >= 5:
        response.payload = bytes([response.payload[0] ^ 1]) + response.payload[1:]
    return response


def lose_a_message(number: int, response: pb.StreamResponse) -> pb.StreamResponse | None:
    return None if response.frames.first_frame == 4 else response


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


def done_at_once(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.done.num_frames = 0
    return response


def done_for_fewer(number: int, response: pb.StreamResponse) -> pb.StreamResponse | None:
    """The last latent's frames are left out, and the count is right for the rest."""
    if response.frames.first_frame >= 17:
        return None
    if response.HasField("done"):
        response.done.num_frames -= 4
    return response


def frames_before_latents(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    """Two frames come with the answer to the opening, which had one latent."""
    if number == 0:
        response.MergeFrom(frames_at(0, num_frames=2))
    return response


def frames_at(index: int, *, num_frames: int = 1) -> pb.StreamResponse:
    frame = bytes(16 * 32 * 3)
    payload = frame * num_frames
    frames = pb.Frames(first_frame=index, num_frames=num_frames, crc32c=[crc32c.crc32c(frame)] * num_frames)
    return pb.StreamResponse(frames=frames, payload=payload)


def one_frame_more(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    return frames_at(21) if response.HasField("done") else response


def opened_again(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    return pb.StreamResponse(opened=pb.Opened()) if number == 2 else response


def queued_again(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    return pb.StreamResponse(queued=pb.Queued(position=1)) if number == 2 else response


FAULTS = [
    (corrupt_payload, DataLoss, "crc32c"),
    (lose_a_message, DataLoss, "must come next"),
    (wrong("done", num_frames=lambda count: count + 1), DataLoss, "the server sent 22 frames: 21 arrived"),
    (wrong("done", num_latents=lambda count: count - 1), DataLoss, "took 5 latents: 6 were sent"),
    (forget_opened, ProtocolError, "isn't Opened"),
    (wrong("opened", pixel_format=pb.PIXEL_FORMAT_YUV420P), ProtocolError, "pixel_format=2: rgb24"),
    (wrong("opened", temporal_factor=3), DataLoss, r"frames up to \d+ arrived: \d latents give \d+"),
    (wrong("opened", temporal_factor=5), DataLoss, "the server sent 21 frames: 6 latents give 26"),
    (done_for_fewer, DataLoss, "the server sent 17 frames: 6 latents give 21"),
    (frames_before_latents, DataLoss, "frames up to 2 arrived: 1 latents give 1"),
    (one_frame_more, DataLoss, "frames up to 22 arrived: 6 latents give 21"),
    (opened_again, ProtocolError, "opened the session again after frame"),
    (queued_again, ProtocolError, "opened the session again after frame"),
    (done_at_once, ProtocolError, "Done after latent 1"),
    (wrong("opened", max_window_frames=2, min_window_frames=2), ProtocolError, "the window ends at"),
]


@pytest.mark.parametrize(("edit", "error", "match"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
async def test_a_fault_of_the_server_is_found(
    target: str, behaviour: Behaviour, edit: Any, error: type[FramehaulError], match: str
) -> None:
    """Nothing wrong is handed out as a frame: the session fails, and names what is wrong.

    Other fields are in the tests of client/core.
    """
    behaviour.edit = edit
    async with FrameClient(target) as client:
        with pytest.raises(error, match=match) as caught:
            await collect(client, make_latents(), model="fake")
        assert type(caught.value) is error
        await asyncio.wait_for(behaviour.left.wait(), 60)


STALLS = [
    ({"edit": lambda number, response: None}, ServerUnavailable, "the server was silent for 1 s"),
    ({"queue": [[2, 1]]}, ServerUnavailable, "the server was silent for 1 s"),
    ({"edit": lambda number, response: None if number else response}, ConnectionLost, "no frame and took no latent"),
    ({"stop_after_frames": 5}, ConnectionLost, "no frame and took no latent for 1 s"),
    ({"stop_after_frames": 5, "chatter": lambda _: pb.StreamResponse()}, ConnectionLost, "no frame and took"),
    (
        {"stop_after_frames": 5, "chatter": lambda number: pb.StreamResponse(latents_until=9 + number)},
        ConnectionLost,
        "no frame and took",
    ),
]


@pytest.mark.parametrize(("behaves", "error", "match"), STALLS)
async def test_a_server_that_says_nothing_for_ever_is_lost(
    target: str, behaviour: Behaviour, behaves: dict[str, Any], error: type[FramehaulError], match: str
) -> None:
    """Before its answer, in its queue, after it, in mid-clip; messages that say nothing don't count."""
    for name, value in behaves.items():
        setattr(behaviour, name, value)
    async with FrameClient(target) as client:
        with pytest.raises(error, match=match) as caught:
            await asyncio.wait_for(collect(client, make_latents(), stall_timeout_s=1.0), 60)
    assert type(caught.value) is error


async def test_a_stalled_session_is_taken_up_again(
    target: str, behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    """As one whose connection broke, and the reason is told."""
    behaviour.stop_after_frames = 5
    behaviour.refuse_resume = (grpc.StatusCode.UNAVAILABLE, "not now", ())
    async with FrameClient(target) as client:
        with pytest.raises(GaveUp, match="not now"):
            await asyncio.wait_for(collect(client, make_latents(), stall_timeout_s=1.0, retry_for_s=0.2), 60)
    assert behaviour.opens[1].resume == pb.Resume(session_id=SESSION_ID, next_frame=5)
    assert "took no latent for 1 s (--stall-timeout): trying again for up to 0.2 s" in caplog.text


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


async def test_a_server_that_opens_and_fails_for_ever_is_given_up(target: str, behaviour: Behaviour) -> None:
    """Only frames renew the time to try again, not a session that was opened, lost and opened anew."""
    behaviour.fail_after_latents = (0, (grpc.StatusCode.UNAVAILABLE, "a moment", ()))
    behaviour.refuse_resume = (grpc.StatusCode.NOT_FOUND, "unknown session", ())
    async with FrameClient(target) as client:
        with pytest.raises(GaveUp, match=r"a moment \(gave up after 0\.4 s\)"):
            await asyncio.wait_for(collect(client, make_latents(), retry_for_s=0.4), 60)
    assert len(behaviour.opens) > 2
