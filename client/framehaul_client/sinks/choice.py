"""Picks the sink by the output's name."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path

from framehaul.formats import PixelFormat
from framehaul_client.sinks.base import Sink
from framehaul_client.sinks.images import IMAGE_ENCODINGS, ImageSink
from framehaul_client.sinks.video import CONTAINERS, VIDEO_FORMATS, VideoSink
from framehaul_client.sinks.video_options import VideoOptions, natural_format
from framehaul_client.sinks.y4m import Y4M_FORMATS, Y4mSink

STDOUT = "-"


def choose_sink(out: str, pixel_format: PixelFormat | None, fps: Fraction, video: VideoOptions) -> Sink:
    """Make the sink for `out`: `-`, a video file, or a pattern of PNG or EXR files.

    Args:
        out: the output's name.
        pixel_format: how frames should arrive; None for what suits the sink.
        fps: frames a second.
        video: how to encode a video file.

    Raises:
        ValueError: no sink has such a name, or it can't take this pixel format.
    """
    suffix = os.path.splitext(out)[1].lower()
    if out == STDOUT:
        return Y4mSink(sys.stdout.fileno(), _chosen(pixel_format, Y4M_FORMATS, out), fps)
    if suffix in IMAGE_ENCODINGS:
        encodings = {encoding.pixel_format: encoding for encoding in IMAGE_ENCODINGS[suffix]}
        return ImageSink(out, encodings[_chosen(pixel_format, tuple(encodings), out)])
    if suffix in CONTAINERS:
        return VideoSink(Path(out), _chosen(pixel_format or natural_format(video), VIDEO_FORMATS, out), fps, video)
    raise ValueError(f"out={out}: must be -, a name with % and .png or .exr, or end in {', '.join(CONTAINERS)}")


def _chosen(asked: PixelFormat | None, allowed: tuple[PixelFormat, ...], out: str) -> PixelFormat:
    """The format asked for, or else the first that the output takes."""
    if asked not in (None, *allowed):
        raise ValueError(f"format={asked}: must be {' or '.join(allowed)} for out={out}")
    return asked or allowed[0]
