"""A constant frame rate out of time stamps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Final, TypeVar

FrameT = TypeVar("FrameT")

_TOLERANCE: Final = 1.1
"""How many frames a time stamp may be away from its place before frames are repeated or dropped."""


def constant_rate(frames: Iterable[tuple[FrameT, float, float]], fps: Fraction) -> Iterator[FrameT]:
    """Repeat and drop frames as `ffmpeg -fps_mode cfr` does.

    Source: `video_sync_process` in FFmpeg's fftools/ffmpeg_filter.c, 7.1. Unlike there, what was on the screen at 0
    is shown from 0 on, not what came next.

    Args:
        frames: each with its time and its duration, in seconds; those before 0 come only if they last.
        fps: frames a second of the result.
    """
    rate, num_made = float(fps), 0
    last: FrameT | None = None
    last_end = 0.0
    for frame, time_s, duration_s in frames:
        late = time_s * rate - num_made
        ahead = late + duration_s * rate
        # Half a frame of slack: time stamps are rounded to the file's time base.
        if num_made == 0 and late < -0.5:
            last, last_end = frame, ahead
            continue
        count = 1
        if abs(ahead) > _TOLERANCE:
            count = max(0, round(ahead))
        num_last = min(count, round(late - 0.6)) if count and late > _TOLERANCE else 0
        for index in range(count):
            yield last if index < num_last and last is not None else frame
        num_made += count
        last = frame
    if num_made == 0 and last is not None:
        for _ in range(round(last_end)):
            yield last
