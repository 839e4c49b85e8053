import msgspec
import pytest

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_server.core.packing import frames_per_message, message_bytes, pack
from tests.support.fakes import FRAME_BYTES, frame, published

HUGE = (1 << 32) - 2


def test_frames_are_packed_whole_and_in_order_and_the_first_message_carries_the_grant() -> None:
    frames = [frame(index, 10) for index in range(20, 27)]
    messages = list(pack(published(20, 7, 10), memoryview(b"".join(frames)), 3, latents_until=9))
    assert [each.num_frames for each in messages] == [3, 3, 1]
    split = [wire.split_response(each.message) for each in messages]
    assert [each.header.frames.first_frame for each in split] == [20, 23, 26]
    assert [list(each.header.frames.crc32c) for each in split] == [[100, 101, 102], [103, 104, 105], [106]]
    assert [each.header.latents_until for each in split] == [9, 0, 0]
    assert b"".join(bytes(each.payload) for each in split) == b"".join(frames)


def test_a_generated_stub_reads_the_message() -> None:
    (message,) = pack(published(0, 2), memoryview(frame(0) + frame(1)), 2, latents_until=0)
    parsed = pb.StreamResponse.FromString(message.message)
    assert parsed.payload == frame(0) + frame(1)
    assert parsed.SerializeToString() == message.message


def test_the_frames_can_be_written_over_at_once() -> None:
    slot = bytearray(frame(4))
    with memoryview(slot) as frames:
        messages = list(pack(published(4, 1), frames, 1, latents_until=0))
    slot[:] = bytes(FRAME_BYTES)
    slot.clear()  # a BufferError if anybody could still read it
    assert wire.split_response(messages[0].message).payload == frame(4)


@pytest.mark.parametrize("num_frames", [1, 2, 40, 1000])
def test_no_message_is_larger_than_its_bound_and_as_many_frames_fit_as_the_bound_says(num_frames: int) -> None:
    most = message_bytes(10, num_frames)
    assert frames_per_message(10, most) == num_frames
    assert frames_per_message(10, most - 1) == num_frames - 1
    chunk = msgspec.structs.replace(published(HUGE, 0, 10), crc32c=(HUGE,) * num_frames)
    (message,) = pack(chunk, memoryview(bytes(10 * num_frames)), num_frames, latents_until=1 << 63)
    assert len(message.message) <= most


def test_nothing_fits_a_tiny_message() -> None:
    assert frames_per_message(10, 3) == 0


@pytest.mark.parametrize(
    ("frame_bytes", "num_frames", "num_waiting"),
    [(599_040, 2, 4), (1_198_080, 1, 2), (3_000_000, 1, 1), (100_000, 15, 26), (5_000_000, 0, 0)],
)
def test_messages_have_the_size_that_throughput_likes(frame_bytes: int, num_frames: int, num_waiting: int) -> None:
    """About 1.5 MiB, 2.5 behind others, however much the client would take; at least one frame, if it takes that."""
    assert frames_per_message(frame_bytes, 4 << 20) == num_frames
    assert frames_per_message(frame_bytes, 4 << 20, waits=True) == num_waiting
