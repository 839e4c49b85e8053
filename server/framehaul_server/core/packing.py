"""From a published chunk to responses: whole frames, as many to a message as make a good size.

Runs on the event loop. The join into a message is the one user-space copy of a frame; it frees the slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.link.messages import Published

DEFAULT_MESSAGE_BYTES: Final = 4 << 20
"""Largest response unless the client says otherwise."""
_GOOD_MESSAGE_BYTES: Final = 3 << 19
"""The size that throughput likes best (docs/benchmarks.md, "Size of messages")."""
_MOST_WAITING_BYTES: Final = 5 << 19
"""The same for what waits behind other responses, where frames come no later by sharing a message's cost."""

_HEADER_BYTES: Final = 64
"""Upper bound of a frame response's tags, lengths and numbers, checksums aside."""
_CRC_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A serialized response."""

    message: bytes
    first_frame: int = 0
    num_frames: int = 0
    last: bool = False


def message_bytes(frame_bytes: int, num_frames: int = 1) -> int:
    """Upper bound of a response that carries `num_frames` frames."""
    return _HEADER_BYTES + num_frames * (frame_bytes + _CRC_BYTES)


def frames_per_message(frame_bytes: int, max_message_bytes: int, *, waits: bool = False) -> int:
    """Whole frames that go into a response, at least one; 0 when not even one fits `max_message_bytes`.

    More if it `waits` behind other responses.
    """
    fitting, good = (
        max(0, limit - _HEADER_BYTES) // (frame_bytes + _CRC_BYTES)
        for limit in (max_message_bytes, _MOST_WAITING_BYTES if waits else _GOOD_MESSAGE_BYTES)
    )
    return min(fitting, max(1, good))


def pack(published: Published, frames: memoryview, frames_to_a_message: int, latents_until: int) -> Iterator[Outgoing]:
    """Copy a chunk's frames into responses; the first also carries `latents_until` (0: nothing to say)."""
    for start in range(0, published.num_frames, frames_to_a_message):
        crc32c = published.crc32c[start : start + frames_to_a_message]
        first_frame, num_frames = published.first_frame + start, len(crc32c)
        header = pb.StreamResponse(
            frames=pb.Frames(first_frame=first_frame, num_frames=num_frames, crc32c=crc32c),
            latents_until=0 if start else latents_until,
        )
        begin = start * published.frame_bytes
        with frames[begin : begin + num_frames * published.frame_bytes] as payload:
            message = wire.join(header, (payload,))
        yield Outgoing(message=message, first_frame=first_frame, num_frames=num_frames)


def without_first(outgoing: Outgoing, next_frame: int) -> Outgoing:
    """The part of a response with frames that begins at `next_frame`, which lies in it."""
    whole = wire.split_response(outgoing.message)
    skipped = next_frame - outgoing.first_frame
    frames = whole.header.frames
    num_frames = frames.num_frames - skipped
    header = pb.StreamResponse(
        frames=pb.Frames(first_frame=next_frame, num_frames=num_frames, crc32c=frames.crc32c[skipped:])
    )
    payload = whole.payload[skipped * (len(whole.payload) // frames.num_frames) :]
    return Outgoing(message=wire.join(header, (payload,)), first_frame=next_frame, num_frames=num_frames)
