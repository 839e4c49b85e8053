"""Picks the sink by the output's name."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Final

from framehaul.formats import PixelFormat
from framehaul_client.sinks.base import Sink
from framehaul_client.sinks.containers import CONTAINERS, LOSSLESS, RAW, suffix_of
from framehaul_client.sinks.images import IMAGE_ENCODINGS, ImageSink
from framehaul_client.sinks.video import VIDEO_FORMATS, VideoSink
from framehaul_client.sinks.video_options import VideoOptions, natural_format

STDOUT: Final = "-"


def choose_sink(
    out: str,
    pixel_format: PixelFormat | None,
    fps: Callable[[], Fraction],
    video: VideoOptions,
    container: str | None = None,
) -> Sink:
    """Make the sink for `out`: `-`, a video file, or a pattern of PNG or EXR files.

    Args:
        out: the output's name.
        pixel_format: how frames should arrive; None for what suits the sink.
        fps: says the frames a second, if the sink has to know.
        video: how to encode a video.
        container: one of `CONTAINERS`; None for what the name says; for `-` Matroska, with raw video
            unless `video` names an encoder.

    Raises:
        ValueError: no sink has such a name, or it can't take these options.
    """
    suffix = suffix_of(out)
    if container is None and out != STDOUT and suffix in IMAGE_ENCODINGS:
        if video.audio is not None:
            raise ValueError(f"audio={video.audio}: must go into a video, not beside images such as {out}")
        encodings = {encoding.pixel_format: encoding for encoding in IMAGE_ENCODINGS[suffix]}
        return ImageSink(out, encodings[_chosen(pixel_format, tuple(encodings), out)])
    target = None if out == STDOUT else Path(out)
    if container is not None:
        found = CONTAINERS[container]
    elif target is None and video.codec is None:
        plain = pixel_format is not PixelFormat.YUV420P10LE and video.encoded_format in (None, "yuv420p")
        found = RAW if plain else LOSSLESS
    elif target is None:
        found = CONTAINERS["mkv"]
    elif suffix in CONTAINERS:
        found = CONTAINERS[suffix]
    else:
        suffixes = ", ".join(f".{name}" for name in CONTAINERS)
        raise ValueError(f"out={out}: must be -, a name with % and .png or .exr, or end in {suffixes}, or --container")
    natural = pixel_format or natural_format(video, found)
    return VideoSink(target, found, _chosen(natural, VIDEO_FORMATS, out), fps(), video)


def _chosen(asked: PixelFormat | None, allowed: tuple[PixelFormat, ...], out: str) -> PixelFormat:
    """The format asked for, or else the first that the output takes."""
    if asked not in (None, *allowed):
        raise ValueError(f"format={asked}: must be {' or '.join(allowed)} for out={out}")
    return asked or allowed[0]
