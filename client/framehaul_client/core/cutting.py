"""Which packets of a film make an excerpt, and which frames have to be encoded again so that its ends are exact.

Pure. Times are in units of the stream's own clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

_NEVER: Final = 1 << 62
_START_CODE: Final = b"\0\0\1"
_H264_IDR, _H264_SPS, _H264_PPS = 5, 7, 8
_HEVC_BLA_N_LP, _HEVC_CRA = 18, 21
_HEVC_IRAP: Final = range(16, 24)


@dataclass(frozen=True, slots=True)
class Packet:
    """What cutting needs to know of a frame's packet.

    Attributes:
        pts: when its frame is shown.
        key: decoding may start here.
        joint: it may follow on other video than that which it followed: nothing after it, and shown after it, needs
            what came before.
    """

    pts: int
    key: bool
    joint: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How an excerpt is put together: frames encoded anew, packets as they are, and again frames.

    Attributes:
        head: frames shown from, and until; equal if there are none.
        copied: positions of the packets, in order.
        tail: as `head`.
    """

    head: tuple[int, int]
    copied: Sequence[int]
    tail: tuple[int, int]

    @property
    def encodes(self) -> bool:
        """Whether any frame is encoded anew."""
        return self.head[0] < self.head[1] or self.tail[0] < self.tail[1]


def exact_plan(packets: Sequence[Packet], start: int, end: int) -> Plan:
    """Plan an excerpt of exactly the frames with `start <= pts < end`.

    It copies from the first joint on, to the last packet after which no frame before it is shown; what is before and
    after is encoded.

    Args:
        packets: in the order of decoding, from a key frame at or before `start`, and with all frames before `end`.
        start: the first frame's time.
        end: that of the first frame after it.
    """
    start = min((each.pts for each in packets if each.pts >= start), default=start)
    first = next((index for index, each in enumerate(packets) if each.joint and start <= each.pts < end), None)
    if first is None:
        return Plan((start, end), (), (end, end))
    joint = packets[first].pts
    copied = tuple(_shown_from(packets, first))
    rest, latest = _shown_after(packets, copied), _shown_up_to(packets, copied)
    last = max(count for count in range(1, len(copied) + 1) if latest[count] < min(rest[count], end))
    until = rest[last]
    return Plan((start, joint), copied[:last], (min(until, end), end))


def whole_plan(packets: Sequence[Packet], start: int, end: int) -> Plan:
    """Plan an excerpt that encodes nothing: from the key frame at or before `start`, to `end` or a few frames later.

    If there is no key frame before `start`, it begins at the first one.
    """
    keys = [index for index, each in enumerate(packets) if each.key]
    first = max((index for index in keys if packets[index].pts <= start), default=keys[0])
    copied = tuple(_shown_from(packets, first))
    rest, latest = _shown_after(packets, copied), _shown_up_to(packets, copied)
    enough = (count for count in range(1, len(copied) + 1) if rest[count] >= end and latest[count] < rest[count])
    return Plan((start, start), copied[: next(enough)], (end, end))


def _shown_from(packets: Sequence[Packet], first: int) -> list[int]:
    """The packets from `first` on, without those that are shown before it."""
    return [index for index in range(first, len(packets)) if packets[index].pts >= packets[first].pts]


def _shown_after(packets: Sequence[Packet], copied: Sequence[int]) -> list[int]:
    """For each number of packets that are copied, when the first of the others is shown."""
    rest = [_NEVER]
    for index in reversed(copied):
        rest.append(min(rest[-1], packets[index].pts))
    return rest[::-1]


def _shown_up_to(packets: Sequence[Packet], copied: Sequence[int]) -> list[int]:
    """For each number of packets that are copied, when the last of them is shown."""
    return list(accumulate((packets[index].pts for index in copied), max, initial=-_NEVER))


def decode_times(pts: Sequence[int]) -> list[int]:
    """When each packet is decoded, given when its frame is shown, in the order of decoding.

    They rise, and each is at or before its frame's time: the times shown, in their order, earlier by what the most
    reordered frame needs.
    """
    shown = sorted(pts)
    delay = max((early - own for early, own in zip(shown, pts, strict=True)), default=0)
    return [each - delay for each in shown]


def split_units(stream: bytes) -> list[bytes]:
    """The units of an H.264 or HEVC stream that has start codes (Annex B of both)."""
    parts = stream.split(_START_CODE)[1:]
    return [part.rstrip(b"\0") if index + 1 < len(parts) else part for index, part in enumerate(parts)]


def is_joint(codec: str, packet: bytes) -> bool:
    """Whether a key frame of H.264 or HEVC, with start codes, ends all that came before it."""
    kinds = [_kind(codec, unit) for unit in split_units(packet) if unit]
    return _H264_IDR in kinds if codec == "h264" else any(kind in _HEVC_IRAP for kind in kinds)


def spliced(codec: str, packet: bytes) -> bytes:
    """A joint's packet such that it may follow on other video.

    A clean random access picture of HEVC goes on counting from what was before it; a broken link access one, which is
    made for splices, doesn't (ITU-T H.265, 7.4.2.2 and 8.3.1). Their headers differ by the unit's type alone.
    """
    if codec != "hevc":
        return packet
    units = [
        bytes((unit[0] & 0x81 | _HEVC_BLA_N_LP << 1,)) + unit[1:] if _kind(codec, unit) == _HEVC_CRA else unit
        for unit in split_units(packet)
    ]
    return b"".join(b"\0" + _START_CODE + unit for unit in units)


def free_parameter_set(extradata: bytes) -> int:
    """A number that none of an H.264 stream's parameter sets has; `extradata` has start codes.

    Raises:
        ValueError: all are taken.
    """
    taken: set[int] = set()
    for unit in split_units(extradata):
        if unit[0] & 31 == _H264_SPS:
            taken.add(_exp_golomb(unit[4:])[0])  # after profile, constraints and level
        elif unit[0] & 31 == _H264_PPS:
            taken.update(_exp_golomb(unit[1:], 2))
    free = next((number for number in range(32) if number not in taken), None)
    if free is None:
        raise ValueError("all of its 32 numbers of parameter sets are taken")
    return free


def _kind(codec: str, unit: bytes) -> int:
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


def _exp_golomb(data: bytes, count: int = 1) -> list[int]:
    """The first numbers of exponential Golomb code in `data`."""
    bits = "".join(f"{byte:08b}" for byte in data[:16])
    found: list[int] = []
    for _ in range(count):
        zeros = len(bits) - len(bits.lstrip("0"))
        found.append(int(bits[: 2 * zeros + 1], 2) - 1)
        bits = bits[2 * zeros + 1 :]
    return found
