"""Frames of any clip, cut into any messages, come out whole; any damage is found."""

import crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameLayout
from framehaul_client.core.reassembly import Reassembly
from framehaul_client.errors import DataLoss

Message = tuple[int, int, list[int], bytes]
LAYOUT = FrameLayout(pixel_format=PixelFormat.YUV420P, height=2, width=2)


@st.composite
def clips(draw: st.DrawFn) -> tuple[bytes, list[Message]]:
    """A clip's bytes, and the messages that carry it."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    num_bytes = sum(sizes) * LAYOUT.frame_bytes
    clip = draw(st.binary(min_size=num_bytes, max_size=num_bytes))
    messages = []
    first = 0
    for size in sizes:
        payload = clip[first * LAYOUT.frame_bytes : (first + size) * LAYOUT.frame_bytes]
        frames = [payload[at : at + LAYOUT.frame_bytes] for at in range(0, len(payload), LAYOUT.frame_bytes)]
        messages.append((first, size, [crc32c.crc32c(frame) for frame in frames], payload))
        first += size
    return clip, messages


def receive(messages: list[Message], num_frames: int) -> bytes:
    reassembly = Reassembly(LAYOUT)
    parts = [
        reassembly.accept(first, size, checksums, memoryview(payload)).frames.tobytes()
        for first, size, checksums, payload in messages
    ]
    reassembly.finish(num_frames)
    return b"".join(parts)


@given(clips())
def test_a_whole_clip_comes_out_as_it_went_in(clip: tuple[bytes, list[Message]]) -> None:
    """Whatever the messages' sizes."""
    content, messages = clip
    assert receive(messages, len(content) // LAYOUT.frame_bytes) == content


@given(clips(), st.data())
def test_damage_is_always_found(clip: tuple[bytes, list[Message]], data: st.DataObject) -> None:
    """A message lost, doubled, swapped, or one bit changed: never a wrong frame, never a short clip."""
    content, messages = clip
    index = data.draw(st.integers(0, len(messages) - 1))
    damage = data.draw(st.sampled_from(["lose", "double", "swap", "flip"]))
    damaged = list(messages)
    if damage == "lose":
        del damaged[index]
    elif damage == "double":
        damaged.insert(index, messages[index])
    elif damage == "swap":
        other = data.draw(st.integers(0, len(messages) - 1).filter(lambda other: other != index or len(messages) == 1))
        damaged[index], damaged[other] = damaged[other], damaged[index]
    else:
        first, size, checksums, payload = messages[index]
        bit = data.draw(st.integers(0, len(payload) * 8 - 1))
        flipped = np.frombuffer(payload, np.uint8).copy()
        flipped[bit // 8] ^= 1 << bit % 8
        damaged[index] = (first, size, checksums, flipped.tobytes())
    if damaged == messages:
        return  # a swap of the only message
    with pytest.raises(DataLoss):
        receive(damaged, len(content) // LAYOUT.frame_bytes)
