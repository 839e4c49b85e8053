import crc32c
import numpy as np
import pytest

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameLayout
from framehaul_client.core.reassembly import Reassembly
from framehaul_client.errors import DataLoss

LAYOUT = FrameLayout(pixel_format=PixelFormat.RGB24, height=2, width=2)
FRAMES = [bytes([value] * LAYOUT.frame_bytes) for value in range(5)]
CHECKSUMS = [crc32c.crc32c(frame) for frame in FRAMES]


def test_frames_come_out_as_views_of_the_payload() -> None:
    """Nothing is copied, and nothing can be written."""
    payload = b"".join(FRAMES[:3])
    batch = Reassembly(LAYOUT).accept(0, 3, CHECKSUMS[:3], memoryview(payload))
    assert batch.frames.shape == (3, 2, 2, 3)
    assert np.shares_memory(batch.frames, np.frombuffer(payload, np.uint8))
    assert not batch.frames.flags.writeable
    assert [int(frame[0, 0, 0]) for frame in batch.frames] == [0, 1, 2]


@pytest.mark.parametrize("offset", [0, 1])
def test_samples_of_16_bits_are_aligned(offset: int) -> None:
    """They are a view where they lie well, and else a copy; read-only in both cases."""
    layout = FrameLayout(pixel_format=PixelFormat.GBRPF16LE, height=2, width=2)
    samples = np.linspace(0, 1, 24, dtype="<f2")
    memory = bytearray(64)
    start = np.frombuffer(memory, np.uint8).ctypes.data % 2 + offset
    memory[start : start + 48] = samples.tobytes()
    message = memoryview(memory).toreadonly()[start : start + 48]
    checksums = [crc32c.crc32c(message[:24]), crc32c.crc32c(message[24:])]
    batch = Reassembly(layout).accept(0, 2, checksums, message)
    assert np.array_equal(batch.frames.reshape(-1), samples)
    assert (batch.frames.dtype, batch.frames.shape) == (np.dtype("<f2"), (2, 3, 2, 2))
    assert batch.frames.flags.aligned
    assert not batch.frames.flags.writeable
    assert np.shares_memory(batch.frames, np.frombuffer(memory, np.uint8)) == (offset == 0)


def test_messages_follow_each_other() -> None:
    """Any split into messages is fine as long as none is missing."""
    reassembly = Reassembly(LAYOUT)
    for first, end in ((0, 1), (1, 4), (4, 5)):
        batch = reassembly.accept(first, end - first, CHECKSUMS[first:end], memoryview(b"".join(FRAMES[first:end])))
        assert batch.first_frame == first
    assert reassembly.next_frame == 5
    reassembly.finish(5)


@pytest.mark.parametrize(
    ("first", "num_frames", "checksums", "payload", "message"),
    [
        (1, 1, CHECKSUMS[1:2], FRAMES[1], "first_frame=1: frame 0 must come next"),
        (0, 0, [], b"", "num_frames=0 at frame 0: must be 1 or more"),
        (0, 2, CHECKSUMS[:1], FRAMES[0] + FRAMES[1], "1 checksums at frame 0: must be 2"),
        (0, 1, CHECKSUMS[:1], FRAMES[0][:-1], "payload of 11 bytes at frame 0: 1 frames have 12"),
        (0, 2, CHECKSUMS[:2], FRAMES[0] + FRAMES[2], r"frame 1 has crc32c [0-9a-f]{8}: the server computed"),
    ],
)
def test_a_wrong_message_is_data_loss(
    first: int, num_frames: int, checksums: list[int], payload: bytes, message: str
) -> None:
    """The text names the frame, and nothing is counted."""
    reassembly = Reassembly(LAYOUT)
    with pytest.raises(DataLoss, match=message):
        reassembly.accept(first, num_frames, checksums, memoryview(payload))
    assert reassembly.next_frame == 0


@pytest.mark.parametrize("num_frames", [0, 2])
def test_the_servers_count_must_agree(num_frames: int) -> None:
    """Done tells of frames that never came."""
    reassembly = Reassembly(LAYOUT)
    reassembly.accept(0, 1, CHECKSUMS[:1], memoryview(FRAMES[0]))
    with pytest.raises(DataLoss, match=f"the server sent {num_frames} frames: 1 arrived"):
        reassembly.finish(num_frames)


def test_a_part_of_a_clip_begins_with_its_first_frame() -> None:
    """The server counts the whole clip."""
    reassembly = Reassembly(LAYOUT, 7)
    with pytest.raises(DataLoss, match="frame 7 must come next"):
        reassembly.accept(0, 1, CHECKSUMS[:1], memoryview(FRAMES[0]))
    reassembly.accept(7, 1, CHECKSUMS[:1], memoryview(FRAMES[0]))
    reassembly.finish(8)
