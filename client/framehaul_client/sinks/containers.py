"""The containers that a video can go into, by the suffix of the output's name."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """How FFmpeg writes one.

    Attributes:
        muxer: FFmpeg's name of it.
        codec: the encoder if the user names none.
        codecs: all that go in; None for what FFmpeg's muxer says.
        pixel_formats: all that go in; None for what the encoder takes.
        whole: the muxer's options for a file that nobody reads before it is whole.
        growing: the muxer's options for a pipe, and for a file that is read while it grows.
        apple: names codecs as QuickTime does.
        sound: the encoder of sound; None: it has none.
        sounds: kinds of sound that go in as they are, and that its players know.
    """

    muxer: str
    codec: str = "libx264"
    codecs: tuple[str, ...] | None = None
    pixel_formats: tuple[str, ...] | None = None
    whole: dict[str, str] = field(default_factory=dict)
    growing: dict[str, str] = field(default_factory=dict)
    apple: bool = False
    sound: str | None = None
    sounds: tuple[str, ...] = ()


_SECOND_US: Final = "1000000"
# The index in front, so that a browser plays before it has everything; or one for each second, after each second.
_MP4_WHOLE: Final = {"movflags": "+faststart"}
_MP4_GROWING: Final = {
    "movflags": "+frag_keyframe+delay_moov+default_base_moof",
    "frag_duration": _SECOND_US,
    "flush_packets": "1",
}
# Whoever is killed leaves all but the last second.
_FLUSHED: Final = {"flush_packets": "1"}
_MATROSKA: Final = {"cluster_time_limit": "1000", **_FLUSHED}
_PCM: Final = ("pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le")
# Not MP3: how much of its beginning is the encoder's own is noted in its file alone, and it would come late.
_MP4_SOUNDS: Final = ("aac", "ac3", "eac3", "alac")

_MP4: Final = Container(
    muxer="mp4", whole=_MP4_WHOLE, growing=_MP4_GROWING, apple=True, sound="aac", sounds=_MP4_SOUNDS
)
CONTAINERS: Final = {
    "mp4": _MP4,
    "m4v": _MP4,
    "mov": Container(
        muxer="mov", whole=_MP4_WHOLE, growing=_MP4_GROWING, apple=True, sound="aac", sounds=(*_MP4_SOUNDS, *_PCM)
    ),
    "mkv": Container(
        muxer="matroska",
        whole=_MATROSKA,
        growing=_MATROSKA,
        sound="aac",
        sounds=(*_MP4_SOUNDS, *_PCM, "flac", "opus", "vorbis", "dts", "truehd"),
    ),
    "webm": Container(
        muxer="webm",
        codec="libvpx-vp9",
        whole=_MATROSKA,
        growing=_MATROSKA,
        sound="libopus",
        sounds=("opus", "vorbis"),
    ),
    "ts": Container(muxer="mpegts", whole=_FLUSHED, growing=_FLUSHED, sound="aac", sounds=("aac", "ac3", "eac3")),
    "y4m": Container(
        muxer="yuv4mpegpipe",
        codec="rawvideo",
        codecs=("rawvideo",),
        pixel_formats=("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"),
        whole={"strict": "-1"},  # 10 bits are nobody's standard
        growing={"strict": "-1"},
    ),
}
# What stdout gets. y4m can't say which matrix its colours are in, so that players guess, and FFmpeg's NUT doesn't.
RAW: Final = Container(muxer="matroska", codec="rawvideo", pixel_formats=("yuv420p",), growing=_MATROSKA)
LOSSLESS: Final = Container(muxer="matroska", codec="ffv1", growing=_MATROSKA)
"""For all that FFmpeg doesn't write raw into Matroska."""


def suffix_of(name: str) -> str:
    """What follows the last dot of a file's name, in lower case; empty without one."""
    return os.path.basename(name).rpartition(".")[2].lower() if "." in os.path.basename(name) else ""
