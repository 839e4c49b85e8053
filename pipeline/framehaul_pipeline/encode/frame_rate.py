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

    Source: `video_sync_process` in FFmpeg's fftools/ffmpeg_filter.c, 7.1, but that each frame is known to last until
    the next one comes. So what is on the screen at 0 is shown from 0 on.

    Args:
        frames: each with its time and its end, in seconds.
        fps: frames a second of the result.
    """
    rate, num_made = float(fps), 0
    for frame, time_s, end_s in frames:
        ahead = end_s * rate - num_made
        # Half a frame of slack: time stamps are rounded to the file's time base.
        if num_made == 0 and time_s * rate < -0.5 and ahead < 0.5:
            continue
        count = max(0, round(ahead)) if abs(ahead) > _TOLERANCE else 1
        for _ in range(count):
            yield frame
        num_made += count
