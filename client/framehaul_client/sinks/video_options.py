"""How to encode a video file: the user's choices, our defaults, and the pixel formats that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import av
from av.codec.codec import UnknownCodecError

from framehaul.formats import PixelFormat

DEFAULT_CODEC: Final = "libx264"
DEFAULT_CRF: Final = 18
DEFAULT_PRESET: Final = "veryfast"
_DEFAULTS: Final = {
    "libx264": {"crf": str(DEFAULT_CRF), "preset": DEFAULT_PRESET},
    "libx265": {"x265-params": "log-level=error"},  # it writes on stderr by itself
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """How to encode.

    Attributes:
        codec: FFmpeg's name of the encoder.
        crf: quality, if the encoder has it; lower is better and larger.
        preset: speed, if the encoder has it.
        encoded_format: FFmpeg's name of the encoder's pixel format; None for the frames' own, if the encoder takes it.
    """

    codec: str = DEFAULT_CODEC
    crf: int | None = None
    preset: str | None = None
    encoded_format: str | None = None

    @property
    def encoder_options(self) -> dict[str, str]:
        """The encoder's options: the user's over our defaults."""
        options = dict(_DEFAULTS.get(self.codec, {}))
        if self.crf == 0 and self.codec == "libx264":
            options.pop("crf")
            options["qp"] = "0"  # lossless at any depth; crf=0 is so in 8 bits only
        elif self.crf is not None:
            options["crf"] = str(self.crf)
        if self.preset is not None:
            options["preset"] = self.preset
        return options


def natural_format(options: VideoOptions) -> PixelFormat:
    """How frames should arrive for these options: as deep as the encoder takes them.

    Raises:
        ValueError: no such encoder, or pixel format of it.
    """
    encoded = av.VideoFormat(encoded_format(options, PixelFormat.YUV420P))
    if encoded.is_rgb:
        return PixelFormat.RGB24
    return PixelFormat.YUV420P if _bits(encoded.name) <= 8 else PixelFormat.YUV420P10LE


def encoded_format(options: VideoOptions, pixel_format: PixelFormat) -> str:
    """FFmpeg's name of what the encoder is given when frames arrive in `pixel_format`.

    Raises:
        ValueError: no such encoder, or pixel format of it, or none that is as deep as the frames.
    """
    try:
        codec = av.Codec(options.codec, "w")
    except UnknownCodecError:
        raise ValueError(f"codec={options.codec}: no such encoder in this build of FFmpeg") from None
    if codec.type != "video":
        raise ValueError(f"codec={options.codec}: must be a video encoder")
    formats = [video_format.name for video_format in codec.video_formats or []]
    wanted = options.encoded_format
    if wanted is None:
        return _default_format(options.codec, formats, pixel_format)
    if formats and wanted not in formats:
        raise ValueError(f"pix_fmt={wanted}: {options.codec} takes {', '.join(formats)}")
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
