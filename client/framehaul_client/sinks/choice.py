"""Picks the sink by the output's name."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path

from framehaul_client.frames import PixelFormat
from framehaul_client.sinks.base import Sink
from framehaul_client.sinks.images import ImageSink
from framehaul_client.sinks.video import CONTAINERS, VideoOptions, VideoSink
from framehaul_client.sinks.y4m import Y4mSink

STDOUT = "-"


def choose_sink(out: str, pixel_format: PixelFormat | None, fps: Fraction, video: VideoOptions) -> Sink:
    """Make the sink for `out`: `-`, a video file, or a pattern of PNG files.

    Args:
        out: the output's name.
        pixel_format: what frames should arrive in; None for what suits the sink.
        fps: frames a second.
        video: how to encode a video file.

    Raises:
        ValueError: nothing is known by such a name, or it can't take this pixel format.
    """
    sink: Sink
    if out == STDOUT:
        sink = Y4mSink(sys.stdout.fileno(), fps)
    elif os.path.splitext(out)[1].lower() == ".png":
        sink = ImageSink(out)
    elif os.path.splitext(out)[1].lower() in CONTAINERS:
        sink = VideoSink(Path(out), pixel_format or PixelFormat.YUV420P, fps, video)
    else:
        raise ValueError(f"out={out}: must be -, a name with % and .png, or end in {', '.join(CONTAINERS)}")
    if pixel_format not in (None, sink.pixel_format):
        raise ValueError(f"format={pixel_format}: out={out} takes {sink.pixel_format} only")
    return sink
