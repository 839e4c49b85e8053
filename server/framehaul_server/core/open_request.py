"""From a client's `Open` to a typed `OpenRequest`, or an error that names the field, its value and what is allowed.

Pure: values in, values out. Everything is checked here, before anything reaches the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

from framehaul.formats import PixelFormat
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import DATA_TYPES, MAX_AGE_MS, MAX_PRIORITY, PIXEL_FORMATS
from framehaul_pipeline.errors import InvalidInput, NotFound, OutOfOrder
from framehaul_pipeline.link.messages import Opening
from framehaul_pipeline.spec import UNTOLD_LATENTS, DecoderSpec, Geometry
from framehaul_server.core.packing import DEFAULT_MESSAGE_BYTES, message_bytes
from framehaul_server.errors import SessionCancelled

KnownT = TypeVar("KnownT")
NumberT = TypeVar("NumberT", bound=int)

_DTYPES: Final = MappingProxyType({number: dtype for dtype, number in DATA_TYPES.items()})
_PIXEL_FORMATS: Final = MappingProxyType(
    {pb.PIXEL_FORMAT_UNSPECIFIED: PixelFormat.RGB24} | {number: each for each, number in PIXEL_FORMATS.items()}
)
_EXPLICIT_BY_MODE: Final = MappingProxyType({pb.MODE_UNSPECIFIED: False, pb.MODE_AUTO: False, pb.MODE_EXPLICIT: True})

MAX_LATENTS: Final = 1 << 24
"""Of one session: days of video at any frame rate."""
MAX_RESTART_LATENTS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRules:
    """What a server allows."""

    specs: tuple[DecoderSpec, ...]
    """The first is the default."""
    max_pixels: int
    allow_synthetic: bool
    reproducible: bool = False
    """Of sessions that don't say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """A session that was asked for, checked."""

    spec: DecoderSpec
    opening: Opening
    """What the worker is asked for, on nobody's behalf yet and from the clip's start."""
    max_message_bytes: int
    explicit: bool
    window_frames: int | None
    """Of an EXPLICIT session; None: the server's choice."""
    resumable: bool
    """The session may outlive its connection."""
    start_frame: int
    """The first frame wanted."""

    @property
    def first_latent(self) -> int:
        """The first latent needed."""
        return self.spec.first_latent_for(self.start_frame)

    @property
    def latent_bytes(self) -> int:
        """Bytes of one latent."""
        return self.opening.geometry.latent_bytes(self.opening.dtype)

    @property
    def most_latents(self) -> int:
        """Of the clip: as many as it was told to have, else what a session may have."""
        told = self.opening.num_latents
        return most_untold(self.spec) if told is None else told

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.opening.geometry.frame_size(self.spec)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.opening.pixel_format.frame_bytes(*self.frame_size)


def read_open(header: pb.StreamRequest, rules: OpenRules, *, now_ns: int = 0) -> tuple[pb.Open, OpenRequest]:
    """Take the `Open` out of a session's first request, which came at `now_ns`, and check it.

    Returns:
        The message, to compare repetitions with, and what it says.

    Raises:
        OutOfOrder: there is none.
        SessionCancelled: the request cancels the session.
        PipelineError: see `check_open`.
    """
    if header.cancel:
        raise SessionCancelled("cancelled by the client")
    if not header.HasField("open"):
        raise OutOfOrder("the first request must hold open, or synthetic latents for the default model")
    return header.open, check_open(header.open, rules, now_ns=now_ns)


def check_open(message: pb.Open, rules: OpenRules, *, now_ns: int = 0) -> OpenRequest:
    """Check an `Open` that came at `now_ns`.

    Raises:
        InvalidInput: a field holds a value that isn't allowed.
        NotFound: an unknown model.
    """
    spec = _restarting(message, find_model(message.model, rules.specs, field="open.model"))
    geometry = _geometry(message, spec, rules)
    height, width = geometry.frame_size(spec)
    pixel_format = _pixel_format(message, height, width, rules.max_pixels)
    if abs(message.priority) > MAX_PRIORITY:
        raise InvalidInput("open.priority", message.priority, f"{-MAX_PRIORITY}..{MAX_PRIORITY}")
    if message.num_latents > MAX_LATENTS:
        raise InvalidInput("open.num_latents", message.num_latents, f"0..{MAX_LATENTS}")
    explicit = _known("open.mode", message.mode, _EXPLICIT_BY_MODE, pb.Mode.Name)
    if message.HasField("resume") and not explicit:
        raise InvalidInput("open.resume", "set", "unset, but in EXPLICIT mode with latents of the client's own")
    _check_start(message, spec)
    return OpenRequest(
        spec=spec,
        opening=Opening(
            model=spec.name,
            geometry=geometry,
            num_latents=message.num_latents if message.HasField("num_latents") else None,
            dtype=_known("open.dtype", message.dtype, _DTYPES, pb.DataType.Name),
            normalized=message.normalized,
            pixel_format=pixel_format,
            priority=message.priority,
            asked_ns=now_ns - min(message.age_ms, MAX_AGE_MS) * 1_000_000,
            restart_latents=message.restart_latents,
            reproducible=message.reproducible if message.HasField("reproducible") else rules.reproducible,
        ),
        max_message_bytes=_max_message_bytes(message, pixel_format.frame_bytes(height, width)),
        explicit=explicit,
        window_frames=(message.window_frames or None) if explicit else None,
        resumable=message.HasField("resume"),
        start_frame=message.start_frame,
    )


def find_model(name: str, specs: tuple[DecoderSpec, ...], *, field: str) -> DecoderSpec:
    """The model called `name`, the default when it is empty.

    Raises:
        NotFound: an unknown model.
    """
    for spec in specs:
        if name in ("", spec.name):
            return spec
    raise NotFound(f"{field}={name[:80]!r}: this server has {', '.join(spec.name for spec in specs)}")


def most_untold(spec: DecoderSpec) -> int:
    """Latents of a clip at most whose opening doesn't tell how many it has."""
    return UNTOLD_LATENTS if spec.growth_bytes_per_pixel else MAX_LATENTS


def _restarting(message: pb.Open, spec: DecoderSpec) -> DecoderSpec:
    """The decoder as this session uses it."""
    every = message.restart_latents
    if not every:
        return spec
    if spec.lookahead_latents or spec.period_latents:
        raise InvalidInput("open.restart_latents", every, f"0 for {spec.name}, whose frames wait for later latents")
    if every > MAX_RESTART_LATENTS:
        raise InvalidInput("open.restart_latents", every, f"0..{MAX_RESTART_LATENTS}")
    return spec.restarting(every)


def _check_start(message: pb.Open, spec: DecoderSpec) -> None:
    if message.HasField("resume") and message.resume.next_frame:
        raise InvalidInput("open.resume.next_frame", message.resume.next_frame, "0 for a new session")
    num_latents = message.num_latents if message.HasField("num_latents") else most_untold(spec)
    last = max(0, spec.num_frames(num_latents) - 1)
    if message.start_frame > last:
        raise InvalidInput("open.start_frame", message.start_frame, f"0..{last} in a clip of {num_latents} latents")


def _geometry(message: pb.Open, spec: DecoderSpec, rules: OpenRules) -> Geometry:
    if not message.HasField("geometry"):
        raise InvalidInput("open.geometry", "unset", "set, or synthetic latents asked for in the same message")
    given = message.geometry
    geometry = Geometry(channels=given.channels, height=given.height, width=given.width)
    geometry.check(spec, rules.max_pixels)
    return geometry


def _pixel_format(message: pb.Open, height: int, width: int, max_pixels: int) -> PixelFormat:
    asked = _known("open.pixel_format", message.pixel_format, _PIXEL_FORMATS, pb.PixelFormat.Name)
    even, pixels = height % 2 == 0 and width % 2 == 0, height * width
    fitting = [
        each.value for each in PixelFormat if (even or not each.subsampled) and pixels <= each.max_pixels(max_pixels)
    ]
    if asked.value in fitting:
        return asked
    allowed = f"one of {', '.join(fitting)} for frames of {height}x{width} pixels"
    if (room := asked.max_pixels(max_pixels)) < pixels:
        allowed += f"; of this one the server has room for {room} pixels a frame (a larger --max-size makes more)"
    raise InvalidInput("open.pixel_format", asked.value, allowed)


def _max_message_bytes(message: pb.Open, frame_bytes: int) -> int:
    asked = message.max_message_bytes or DEFAULT_MESSAGE_BYTES
    needed = message_bytes(frame_bytes)
    if asked < needed:
        raise InvalidInput(
            "open.max_message_bytes", asked, f"at least {needed}, the size of a message with one frame of this session"
        )
    return min(asked, max(needed, DEFAULT_MESSAGE_BYTES))


def _known(field: str, number: NumberT, known: Mapping[NumberT, KnownT], name: Callable[[NumberT], str]) -> KnownT:
    value = known.get(number)
    if value is None:
        allowed = ", ".join(f"{name(each)} ({each})" for each in known)
        raise InvalidInput(field, number, f"one of {allowed}")
    return value
