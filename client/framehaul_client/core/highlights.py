"""A request for the best seconds of a film, and its answers, as values; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, TypeVar

from framehaul.formats import PixelFormat
from framehaul.v1 import highlights_pb2 as pb
from framehaul.wire import PIXEL_FORMATS
from framehaul_client.core.frames import FrameLayout
from framehaul_client.core.printable import printable
from framehaul_client.errors import ProtocolError

CUTS: Final = {"allow": pb.CUTS_ALLOW, "avoid": pb.CUTS_AVOID, "never": pb.CUTS_NEVER}
MAX_EXCERPTS: Final = 20
MAX_SECONDS: Final = 600.0
MAX_SIDE: Final = 100
"""Of a crop's shape, such as 9:16."""
_FORMATS: Final = {number: each for each, number in PIXEL_FORMATS.items()}

NumberT = TypeVar("NumberT", int, float)


def within(name: str, value: NumberT, least: NumberT, most: NumberT) -> NumberT:
    """Return `value`.

    Raises:
        ValueError: it isn't in `least..most`.
    """
    if not least <= value <= most:
        raise ValueError(f"{name}={value:g}: must be {least:g}..{most:g}")
    return value


def parse_shape(text: str) -> tuple[int, int]:
    """Read a crop's shape, such as 9:16.

    Raises:
        ValueError: it is none.
    """
    width, colon, height = text.partition(":")
    if not (colon and width.isascii() and height.isascii() and width.isdecimal() and height.isdecimal()):
        raise ValueError(f"{text}: must be WIDTH:HEIGHT, such as 9:16")
    return within("width", int(width), 1, MAX_SIDE), within("height", int(height), 1, MAX_SIDE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is looked for, and what is to come of it.

    Attributes:
        images: pictures of it, each a whole JPEG, PNG or WebP file.
        text: it in words, for servers with a model that reads them.
        seconds: of an excerpt.
        excerpts: how many, 1..20.
        samples_per_second: of the film, 0.1..10.
        cuts: allow, avoid or never.
        frames: the excerpts' frames are wanted too, in
        pixel_format: this format.
        crop: width and height of a shape in which the server keeps the subject; None: whole frames.
        saliency: maps of where people look are wanted too, of each excerpt; without images and text, of all the film.
    """

    images: Sequence[bytes] = ()
    text: str = ""
    seconds: float = 5.0
    excerpts: int = 1
    samples_per_second: float = 2.0
    cuts: str = "avoid"
    frames: bool = False
    pixel_format: PixelFormat = PixelFormat.YUV420P
    crop: tuple[int, int] | None = None
    saliency: bool = False

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ValueError: a value is out of its range, or there is nothing to look for.
        """
        if not self.searches and (self.frames or not self.saliency):
            raise ValueError("nothing to look for: must have an image, or a text")
        within("seconds", self.seconds, 0.1, MAX_SECONDS)
        within("excerpts", self.excerpts, 1, MAX_EXCERPTS)
        within("samples_per_second", self.samples_per_second, 0.1, 10.0)
        if self.cuts not in CUTS:
            raise ValueError(f"cuts={self.cuts}: must be {', '.join(CUTS)}")

    @property
    def searches(self) -> bool:
        """There is something to look for."""
        return bool(self.images or self.text.strip())

    def message(self, *, path: str, upload_bytes: int, max_message_bytes: int, window_frames: int) -> pb.HighlightOpen:
        """The message that opens the request."""
        width, height = self.crop or (0, 0)
        return pb.HighlightOpen(
            images=self.images,
            text=self.text,
            seconds=self.seconds,
            excerpts=self.excerpts,
            samples_per_second=self.samples_per_second,
            cuts=CUTS[self.cuts],
            want=pb.WANT_FRAMES if self.frames else pb.WANT_SCORES,
            path=path,
            upload_bytes=upload_bytes,
            pixel_format=PIXEL_FORMATS[self.pixel_format],
            max_message_bytes=max_message_bytes,
            crop_width=width,
            crop_height=height,
            window_frames=window_frames,
            saliency=self.saliency,
        )


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Some seconds of the film, counted from its first frame.

    Attributes:
        start: of its first frame.
        end: of the first frame after it.
        score: its mean, in standard deviations of the film's scores.
        weak: it hardly stands out.
    """

    start: float
    end: float
    score: float
    weak: bool

    def __str__(self) -> str:
        """Such as 0:35.0-0:40.0, 3.1 sd."""
        return f"{clock(self.start)}-{clock(self.end)}, {self.score:.1f} sd{', weak' if self.weak else ''}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the server is.

    Attributes:
        uploaded_bytes: of the film.
        scanned_s: seconds of the film.
        total_s: of the film; None while that isn't known.
        num_samples: frames that were compared.
        best: the best excerpt so far; None: there is none yet.
    """

    uploaded_bytes: int
    scanned_s: float
    total_s: float | None
    num_samples: int
    best: Excerpt | None


@dataclass(frozen=True, slots=True)
class Scores:
    """What the server found.

    Attributes:
        times: of the samples, seconds from the film's first frame.
        scores: of each sample, in standard deviations of all.
        cuts: where one shot ends and another begins.
        excerpts: best first.
        model: what the pictures were compared by.
    """

    times: Sequence[float]
    scores: Sequence[float]
    cuts: Sequence[float]
    excerpts: Sequence[Excerpt]
    model: str

    def as_dict(self, film: str) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "film": film,
            "model": self.model,
            "excerpts": [
                {
                    "start": round(each.start, 6),
                    "end": round(each.end, 6),
                    "score": round(each.score, 4),
                    "weak": each.weak,
                }
                for each in self.excerpts
            ],
            "cuts": [round(each, 6) for each in self.cuts],
            "samples": [[round(time, 6), round(score, 4)] for time, score in zip(self.times, self.scores, strict=True)],
        }


@dataclass(frozen=True, slots=True)
class ExcerptFrames:
    """An excerpt whose frames come next, or maps of where people look in them.

    Attributes:
        excerpt: which.
        first_frame: its first one, counted over all excerpts.
        num_frames: how many it has.
        layout: what they look like.
        fps: frames a second.
        crop_left: of each frame, where the crop lies in the film's, in pixels; empty without one.
        crop_top: likewise.
        saliency: they are maps, brightest where people look most.
    """

    excerpt: Excerpt
    first_frame: int
    num_frames: int
    layout: FrameLayout
    fps: Fraction
    crop_left: Sequence[int]
    crop_top: Sequence[int]
    saliency: bool = False


def read_progress(message: pb.HighlightProgress) -> Progress:
    """Read what a server says of its progress.

    Raises:
        ProtocolError: it can't be so.
    """
    total_s = _seconds("total_seconds", message.total_seconds)
    return Progress(
        message.uploaded_bytes,
        _seconds("scanned_seconds", message.scanned_seconds),
        total_s or None,
        message.samples,
        _excerpt(message.best) if message.HasField("best") else None,
    )


def read_scores(message: pb.Scores, query: Query) -> Scores:
    """Read what a server found.

    Raises:
        ProtocolError: it can't be so, or isn't what `query` asked for.
    """
    if len(message.times) != len(message.scores):
        raise ProtocolError(f"{len(message.scores)} scores came for {len(message.times)} samples")
    if not 1 <= len(message.excerpts) <= query.excerpts:
        raise ProtocolError(f"{len(message.excerpts)} excerpts came: must be 1..{query.excerpts}")
    for name, values in (("times", message.times), ("scores", message.scores), ("cuts", message.cuts)):
        if not all(map(math.isfinite, values)):
            raise ProtocolError(f"{name}: must be finite")
    return Scores(
        list(message.times),
        list(message.scores),
        list(message.cuts),
        [_excerpt(each) for each in message.excerpts],
        printable(message.model),
    )


def read_excerpt_frames(message: pb.ExcerptFrames, query: Query, next_frame: int) -> ExcerptFrames:
    """Read what a server says of the frames that come next.

    Raises:
        ProtocolError: it can't be so, or isn't what `query` asked for.
    """
    if message.first_frame != next_frame:
        raise ProtocolError(f"first_frame={message.first_frame}: frame {next_frame} must come next")
    if not (query.saliency if message.saliency else query.frames):
        raise ProtocolError(f"{'maps' if message.saliency else 'frames'} came, which weren't asked for")
    if _FORMATS.get(message.pixel_format) is not query.pixel_format:
        raise ProtocolError(f"pixel_format={message.pixel_format}: {query.pixel_format} was asked for")
    if not message.num_frames or not message.rate_numerator or not message.rate_denominator:
        raise ProtocolError("an excerpt came without frames, or without a rate")
    try:
        layout = FrameLayout(pixel_format=query.pixel_format, height=message.height, width=message.width)
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    if query.crop is not None and not message.saliency:
        _check_crop(message, query.crop)
    return ExcerptFrames(
        _excerpt(message.excerpt),
        message.first_frame,
        message.num_frames,
        layout,
        Fraction(message.rate_numerator, message.rate_denominator),
        tuple(message.crop_left),
        tuple(message.crop_top),
        message.saliency,
    )


def _check_crop(message: pb.ExcerptFrames, crop: tuple[int, int]) -> None:
    """The frames that come are cropped; sizes are even, hence the two pixels."""
    fitting = message.height * crop[0] / crop[1]
    if abs(message.width - fitting) > 2 * max(1.0, crop[0] / crop[1]):
        raise ProtocolError(f"frames of {message.width}x{message.height} came: {crop[0]}:{crop[1]} was asked for")
    if not len(message.crop_left) == len(message.crop_top) == message.num_frames:
        raise ProtocolError(
            f"places of {len(message.crop_left)} and {len(message.crop_top)} crops came for {message.num_frames} frames"
        )


def numbered(out: str, number: int, count: int) -> str:
    """The name for one of `count` excerpts, from 1: as it is for a lone one, else clip-1.mp4, or 1-%06d.png."""
    if count == 1:
        return out
    folder, slash, name = out.rpartition("/")
    if "%" in name:
        return f"{folder}{slash}{number}-{name}"
    stem, dot, suffix = name.rpartition(".")
    return f"{folder}{slash}{stem}-{number}{dot}{suffix}" if stem else f"{out}-{number}"


def clock(seconds: float) -> str:
    """Such as 1:02:35.0."""
    tenths = round(seconds * 10)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600 / 10
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def _excerpt(message: pb.Excerpt) -> Excerpt:
    start, end = _seconds("start", message.start), _seconds("end", message.end)
    if start >= end or not math.isfinite(message.score):
        raise ProtocolError(f"an excerpt from {start:g} to {end:g}, of score {message.score:g}, can't be")
    return Excerpt(start, end, message.score, message.weak)


def _seconds(name: str, value: float) -> float:
    if not 0 <= value < 1e9:
        raise ProtocolError(f"{name}={value:g}: can't be")
    return value
