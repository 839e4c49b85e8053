"""Decodes of a film what samples need: the frames that are sampled, and those that other frames refer to.

Packets tell when their frames are shown, so it is known before decoding which of them are sampled. Of the others, those
that nothing refers to are skipped, and a group's last ones, if the next group needs none of them. What comes out is the
same to the bit. Where a film isn't as it says, everything is decoded from there on. Runs in a reader process.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from framehaul_pipeline.highlight.messages import Scan

_MOST_PACKETS: Final = 1500
_MOST_BYTES: Final = 64 << 20
"""That are looked ahead for a group of pictures to end."""
_SLACK_S: Final = 1e-4
"""A frame that is sampled by this much is decoded as well."""
_WITH_UNREFERRED: Final = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs that have pictures which nothing refers to, and whose decoders leave those out when told to."""
_WITH_GROUPS: Final = _WITH_UNREFERRED | {"vp8", "vp9", "av1"}
"""Codecs whose key frames are ones."""

Group = Sequence["Packet[VideoStream]"]
"""A key frame's packet and those that follow it up to the next one's, in the order of decoding."""


class NotAsItSays(Exception):
    """A film's frames aren't those that its packets speak of."""


def decoded(
    packets: Iterable[Packet[VideoStream]], stream: VideoStream, seconds: Callable[[int], float], scan: Scan
) -> Iterator[VideoFrame]:
    """The frames that a scan samples, the last one, and some of those between; `seconds` is when a stamp is shown.

    Raises:
        NotAsItSays: the film isn't; what came so far is right.
    """
    coming: deque[int] = deque()
    """Stamps of sampled frames that were decoded, and are to come out."""
    codec = stream.codec_context.codec
    if codec.canonical_name not in _WITH_GROUPS and not codec.intra_only:
        raise NotAsItSays
    may_skip = _may_skip(stream)
    for group, after in _groups(packets):
        wanted = wanted_stamps(group, after, seconds, scan)
        coming.extend(sorted(wanted))
        for packet in group[: _num_needed(group, after, wanted, stream)]:
            stream.codec_context.skip_frame = "NONREF" if may_skip and packet.pts not in wanted else "DEFAULT"
            yield from _checked(stream, packet, coming)
    yield from _checked(stream, None, coming)
    if coming:
        raise NotAsItSays


def _checked(stream: VideoStream, packet: Packet[VideoStream] | None, coming: deque[int]) -> Iterator[VideoFrame]:
    try:
        frames = stream.decode(packet)
    except av.FFmpegError as error:
        raise NotAsItSays from error
    for frame in frames:
        if frame.is_corrupt or frame.pts is None or (coming and frame.pts > coming[0]):
            raise NotAsItSays
        if coming and frame.pts == coming[0]:
            coming.popleft()
        yield frame


def _groups(packets: Iterable[Packet[VideoStream]]) -> Iterator[tuple[Group, Group]]:
    """Each group with the one after it; the last one has none."""
    before: list[Packet[VideoStream]] = []
    group: list[Packet[VideoStream]] = []
    num_bytes = 0
    for packet in packets:
        if packet.is_keyframe and group:
            if before:
                yield before, group
            before, group, num_bytes = group, [], 0
        group.append(packet)
        num_bytes += packet.size
        if len(group) > _MOST_PACKETS or num_bytes > _MOST_BYTES:
            raise NotAsItSays
    if before:
        yield before, group
    yield group, []


def wanted_stamps(group: Group, after: Group, seconds: Callable[[int], float], scan: Scan) -> set[int]:
    """Stamps of a group's frames that the scan samples, of the first one past its end and of the film's last one.

    Raises:
        NotAsItSays: stamps lack, come twice or go back.
    """
    stamps, later = _stamps(group), _stamps(after)
    if stamps and later and later[0] <= stamps[-1]:
        raise NotAsItSays
    times = [seconds(stamp) for stamp in stamps]
    ends = [*times[1:], seconds(later[0]) if later else math.inf]
    shown = list(zip(stamps, times, ends, strict=False))
    wanted = {stamp for stamp, time, end in shown if end == math.inf or _is_sampled(scan, time, end)}
    return wanted | set([stamp for stamp, time, _ in shown if time >= scan.end][:1])


def _stamps(group: Group) -> list[int]:
    shown = [packet.pts for packet in group if not packet.is_discard]
    stamps = sorted({stamp for stamp in shown if stamp is not None})
    if len(stamps) < len(shown):
        raise NotAsItSays
    return stamps


def _is_sampled(scan: Scan, time: float, end: float) -> bool:
    first = math.ceil((max(time, scan.start) - _SLACK_S) * scan.per_second)
    return first / scan.per_second < min(end, scan.end)


def _num_needed(group: Group, after: Group, wanted: set[int], stream: VideoStream) -> int:
    """How many of a group's packets are decoded."""
    # What is said before a key frame may hold for later ones, too.
    least = 0 if stream.codec_context.codec.intra_only else 1
    needed = max((number for number, packet in enumerate(group, 1) if packet.pts in wanted), default=least)
    needed = max(least, needed)
    return needed if needed < len(group) and after and _begins_anew(after, stream) else len(group)


def _begins_anew(group: Group, stream: VideoStream) -> bool:
    """Whether none of its frames refers to frames before the group."""
    key = group[0]
    if key.is_discard or key.pts != _stamps(group)[0]:
        return False
    if stream.codec_context.codec.canonical_name != "h264":
        return True
    # Other pictures may be called key frames: those where a gradual refresh begins.
    instantaneous = av.BitStreamFilterContext("filter_units=pass_types=5", stream)
    return bool(instantaneous.filter(av.Packet(bytes(key))))


def _may_skip(stream: VideoStream) -> bool:
    context = stream.codec_context
    if context.codec.canonical_name == "hevc":
        # What nothing of its own layer in time refers to, other layers may. This says how many layers there are.
        # Source: ISO/IEC 14496-15, HEVCDecoderConfigurationRecord.
        configuration = context.extradata or b""
        return len(configuration) > 21 and configuration[0] == 1 and configuration[21] >> 3 & 7 == 1
    return context.codec.canonical_name in _WITH_UNREFERRED
