"""How to encode a video file: the user's choices, our defaults, and the pixel formats that follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.codec.codec import UnknownCodecError

from framehaul.formats import PixelFormat
from framehaul_client.sinks.containers import Container

DEFAULT_CRF: Final = 18
DEFAULT_PRESET: Final = "veryfast"
_DEFAULTS: Final = {
    "libx264": {"crf": str(DEFAULT_CRF), "preset": DEFAULT_PRESET},
    "ffv1": {"slices": "16"},  # each on a core
    "libvpx-vp9": {"crf": "20", "cpu-used": "5", "row-mt": "1"},
}
_NVENC: Final = {"rc": "vbr", "cq": "19", "b": "0"}
"""Constant quality, by its own name; NVENC's default is 2 Mbit/s whatever the size."""
_OTHER_RATE_CONTROL: Final = frozenset({"b", "qp", "rc"})
"""Options that a `crf` would override without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """How to encode.

    Attributes:
        codec: FFmpeg's name of the encoder, or of the format that it makes; None for the container's own.
        crf: quality, if the encoder has it; lower is better and larger.
        preset: speed, if the encoder has it.
        encoded_format: FFmpeg's name of the encoder's pixel format; None for the frames' own, if the encoder takes it.
        more: other options of the encoder.
        live: the file has its name from its first frame on, and plays while it grows.
        in_parts: frames of several parts of the clip come side by side.
        audio: a file with sound that goes beside it.
        audio_start: where in the sound the video begins, in seconds.
    """

    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    encoded_format: str | None = None
    more: dict[str, str] = field(default_factory=dict)
    live: bool = False
    in_parts: bool = False
    audio: Path | None = None
    audio_start: Fraction = Fraction(0)

    def encoder(self, container: Container) -> av.Codec:
        """The encoder.

        Raises:
            ValueError: there is no such one, or the container doesn't take it.
        """
        name = self.codec or container.codec
        try:
            codec = av.Codec(name, "w")
        except UnknownCodecError:
            raise ValueError(f"codec={name}: no such encoder in this build of FFmpeg") from None
        if codec.type != "video":
            raise ValueError(f"codec={name}: must be a video encoder")
        if container.codecs is not None and codec.name not in container.codecs:
            raise ValueError(f"codec={name}: must be {' or '.join(container.codecs)} for {container.muxer}")
        return codec

    @property
    def asked(self) -> dict[str, str]:
        """The encoder's options that the user named."""
        named = {"crf": self.crf, "preset": self.preset}
        return {**{name: str(value) for name, value in named.items() if value is not None}, **self.more}

    def encoder_options(self, codec: str) -> dict[str, str]:
        """The options of the encoder that FFmpeg calls `codec`: the user's over our defaults."""
        defaults, asked = _DEFAULTS.get(codec, {}), self.asked
        if codec.endswith("_nvenc"):
            defaults = {} if self.more.keys() & _OTHER_RATE_CONTROL else _NVENC
            if "crf" in asked:
                asked["cq"] = asked.pop("crf")
        options = {**defaults, **asked}
        if self.more.keys() & _OTHER_RATE_CONTROL and "crf" not in self.asked:
            options.pop("crf", None)
        if codec == "libx264" and options.get("crf") == "0":
            options["qp"] = options.pop("crf")  # lossless at any depth; crf=0 is so in 8 bits only
        if codec == "libx265":  # it writes on stderr by itself
            options["x265-params"] = ":".join(filter(None, ("log-level=error", options.get("x265-params"))))
        return options


def natural_format(options: VideoOptions, container: Container) -> PixelFormat:
    """How frames should arrive for these options: as deep as the encoder takes them.

    Raises:
        ValueError: no such encoder, or pixel format of it.
    """
    encoded = av.VideoFormat(encoded_format(options, container, PixelFormat.YUV420P))
    if encoded.is_rgb:
        return PixelFormat.RGB24
    return PixelFormat.YUV420P if _bits(encoded.name) <= 8 else PixelFormat.YUV420P10LE


def encoded_format(options: VideoOptions, container: Container, pixel_format: PixelFormat) -> str:
    """FFmpeg's name of what the encoder is given when frames arrive in `pixel_format`.

    Raises:
        ValueError: no such encoder, or pixel format of it, or none that is as deep as the frames.
    """
    codec = options.encoder(container)
    formats = [video_format.name for video_format in codec.video_formats or []]
    if container.pixel_formats is not None:
        formats = list(container.pixel_formats)
    wanted = options.encoded_format
    if wanted is None:
        return _default_format(codec.name, formats, pixel_format)
    if formats and wanted not in formats:
        raise ValueError(f"pix_fmt={wanted}: {codec.name} takes {', '.join(formats)}")
    try:
        av.VideoFormat(wanted)
    except ValueError:
        raise ValueError(f"pix_fmt={wanted}: no such pixel format") from None
    return wanted


def _default_format(codec: str, formats: list[str], pixel_format: PixelFormat) -> str:
    """The encoder's input among `formats`: 4:2:0 as deep as the frames, or else the first that is as deep."""
    deep = pixel_format is PixelFormat.YUV420P10LE
    first = (PixelFormat.YUV420P10LE if deep else PixelFormat.YUV420P).value
    if not formats or first in formats:
        return first
    found = next((name for name in formats if not deep or _bits(name) > 8), None)
    if found is None:
        raise ValueError(f"format={pixel_format}: {codec} takes 8 bits only: {', '.join(formats)}")
    return found


def _bits(name: str) -> int:
    return max(component.bits for component in av.VideoFormat(name).components)
