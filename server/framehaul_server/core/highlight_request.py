"""What a client asks of a film, checked. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from framehaul import wire
from framehaul.formats import PixelFormat
from framehaul.v1 import frames_pb2, highlights_pb2
from framehaul_pipeline.config import MAX_PICTURES
from framehaul_pipeline.errors import InvalidInput, OutOfOrder
from framehaul_pipeline.highlight.rank import Cuts
from framehaul_pipeline.models.embedding import EmbeddingModel
from framehaul_server.core.packing import DEFAULT_MESSAGE_BYTES, message_bytes

MAX_EXCERPTS: Final = 20
_MAX_WINDOW: Final = 1000
_MAX_PICTURE_BYTES: Final = 16 << 20
_MAX_TEXT: Final = 1000
_PIXEL_FORMATS: Final = (PixelFormat.RGB24, PixelFormat.YUV420P)
_CUTS: Final[dict[int, Cuts]] = {
    highlights_pb2.CUTS_UNSPECIFIED: Cuts.AVOID,
    highlights_pb2.CUTS_ALLOW: Cuts.ALLOW,
    highlights_pb2.CUTS_AVOID: Cuts.AVOID,
    highlights_pb2.CUTS_NEVER: Cuts.NEVER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HighlightRules:
    """What every request of a server is held to."""

    model: EmbeddingModel
    has_root: bool
    """Films below a folder of the server's may be named."""
    max_upload_bytes: int
    default_window: int = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class HighlightAsked:
    """A checked request."""

    images: tuple[bytes, ...]
    text: str
    """What is searched for in words; empty: pictures alone are."""
    seconds: float
    excerpts: int
    per_second: float
    cuts: Cuts
    wants_frames: bool
    path: str
    """Below the server's folder; empty: the film is uploaded."""
    upload_bytes: int
    pixel_format: PixelFormat
    max_message_bytes: int
    crop: tuple[int, int] | None
    window_frames: int

    @property
    def kinds(self) -> int:
        """Of similarity: to the pictures, to the text."""
        return bool(self.images) + bool(self.text)

    @classmethod
    def of(cls, asked: highlights_pb2.HighlightOpen, rules: HighlightRules) -> HighlightAsked:
        """Check a request.

        Raises:
            InvalidInput: a field holds what it may not.
            OutOfOrder: what this server's model can't do.
        """
        seconds, per_second = asked.seconds or 5.0, asked.samples_per_second or 2.0
        excerpts, crop = asked.excerpts or 1, (asked.crop_width, asked.crop_height)
        _check_range("open.seconds", seconds, 0.1, 600.0)
        _check_range("open.samples_per_second", per_second, 0.1, 10.0)
        _check_range("open.excerpts", excerpts, 1, MAX_EXCERPTS)
        if bool(crop[0]) != bool(crop[1]) or max(crop) > 100 * max(1, min(crop)):
            raise InvalidInput("open.crop_width", f"{crop[0]}:{crop[1]}", "a shape such as 9:16, with both numbers")
        _check_query(asked, rules.model)
        if asked.path:
            if not rules.has_root:
                raise InvalidInput("open.path", asked.path, "empty: this server reads no files, upload the video")
            if asked.upload_bytes:
                raise InvalidInput("open.upload_bytes", asked.upload_bytes, "0 where a path is given")
        elif not 1 <= asked.upload_bytes <= rules.max_upload_bytes:
            raise InvalidInput(
                "open.upload_bytes", asked.upload_bytes, f"1..{rules.max_upload_bytes}, the video's size"
            )
        max_message_bytes = asked.max_message_bytes or DEFAULT_MESSAGE_BYTES
        _check_range("open.max_message_bytes", max_message_bytes, 64 << 10, 1 << 31)
        window = asked.window_frames or rules.default_window
        _check_range("open.window_frames", window, 1, _MAX_WINDOW)
        return cls(
            images=tuple(asked.images),
            text=asked.text,
            seconds=seconds,
            excerpts=excerpts,
            per_second=per_second,
            cuts=_cuts(asked.cuts),
            wants_frames=_wants_frames(asked.want),
            path=asked.path,
            upload_bytes=asked.upload_bytes,
            pixel_format=_pixel_format(asked.pixel_format),
            max_message_bytes=max_message_bytes,
            crop=crop if crop[0] else None,
            window_frames=window,
        )

    def check_frame(self, width: int, height: int, max_pixels: int) -> None:
        """Refuse frames that don't fit a slot or a message.

        Raises:
            InvalidInput: they don't.
        """
        if width * height > max_pixels:
            raise InvalidInput("video", f"{width}x{height}", f"at most {max_pixels} pixels a frame for its frames")
        least = message_bytes(self.pixel_format.frame_bytes(height, width))
        if least > self.max_message_bytes:
            raise InvalidInput("open.max_message_bytes", self.max_message_bytes, f"at least {least}, for one frame")


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidInput(field, value, f"{low:g}..{high:g}")


def _check_query(asked: highlights_pb2.HighlightOpen, model: EmbeddingModel) -> None:
    if asked.text and not model.reads_text:
        raise OutOfOrder(
            "open.text: this server's network knows pictures alone; give images of what is wanted, or start the server "
            "with --highlight-model DIR, the folder of a CLIP or a SigLIP"
        )
    if asked.text and not (asked.text.strip() and len(asked.text) <= _MAX_TEXT):
        raise InvalidInput("open.text", f"{len(asked.text)} characters", f"1..{_MAX_TEXT}, not all of them blank")
    if not asked.images and not asked.text:
        or_text = ", or a text" if model.reads_text else ""
        raise InvalidInput("open.images", "none", f"1..{MAX_PICTURES} pictures of what is searched for{or_text}")
    if len(asked.images) > MAX_PICTURES:
        raise InvalidInput("open.images", len(asked.images), f"at most {MAX_PICTURES} pictures")
    for index, image in enumerate(asked.images):
        if not 0 < len(image) <= _MAX_PICTURE_BYTES:
            raise InvalidInput(f"open.images[{index}]", f"{len(image)} bytes", f"1..{_MAX_PICTURE_BYTES} bytes")


def _cuts(value: int) -> Cuts:
    if value not in _CUTS:
        raise InvalidInput("open.cuts", value, "ALLOW (1), AVOID (2) or NEVER (3)")
    return _CUTS[value]


def _wants_frames(want: int) -> bool:
    known: dict[int, bool] = {
        highlights_pb2.WANT_UNSPECIFIED: False,
        highlights_pb2.WANT_SCORES: False,
        highlights_pb2.WANT_FRAMES: True,
    }
    if want not in known:
        raise InvalidInput("open.want", want, "SCORES (1) or FRAMES (2)")
    return known[want]


def _pixel_format(asked: int) -> PixelFormat:
    if asked == frames_pb2.PIXEL_FORMAT_UNSPECIFIED:
        return PixelFormat.RGB24
    for known in _PIXEL_FORMATS:
        if wire.PIXEL_FORMATS[known] == asked:
            return known
    raise InvalidInput("open.pixel_format", asked, "RGB24 (1) or YUV420P (2)")
