"""From a client's `Open` to a typed `OpenRequest`, or an error that names the field, its value and what is allowed.

Pure: values in, values out. Everything is checked here, before anything reaches the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import InvalidInput, NotFound, OutOfOrder
from framehaul_pipeline.spec import DecoderSpec, Geometry, LatentDtype, PixelFormat
from framehaul_server.core.packing import DEFAULT_MESSAGE_BYTES, message_bytes
from framehaul_server.errors import SessionCancelled

KnownT = TypeVar("KnownT")
NumberT = TypeVar("NumberT", bound=int)

DTYPES: Final = MappingProxyType(
    {
        pb.DATA_TYPE_FLOAT16: LatentDtype.FLOAT16,
        pb.DATA_TYPE_BFLOAT16: LatentDtype.BFLOAT16,
        pb.DATA_TYPE_FLOAT32: LatentDtype.FLOAT32,
    }
)
PIXEL_FORMATS: Final = MappingProxyType(
    {
        pb.PIXEL_FORMAT_UNSPECIFIED: PixelFormat.RGB24,
        pb.PIXEL_FORMAT_RGB24: PixelFormat.RGB24,
        pb.PIXEL_FORMAT_YUV420P: PixelFormat.YUV420P,
        pb.PIXEL_FORMAT_YUV420P10LE: PixelFormat.YUV420P10LE,
        pb.PIXEL_FORMAT_GBRPF16LE: PixelFormat.GBRPF16LE,
    }
)
PIXEL_FORMAT_NUMBERS: Final = MappingProxyType(
    {PIXEL_FORMATS[number]: number for number in PIXEL_FORMATS if number != pb.PIXEL_FORMAT_UNSPECIFIED}
)
_EXPLICIT_BY_MODE: Final = MappingProxyType({pb.MODE_UNSPECIFIED: False, pb.MODE_AUTO: False, pb.MODE_EXPLICIT: True})

MAX_LATENTS: Final = 1 << 24
"""Of one session: days of video at any frame rate."""
_MAX_PRIORITY: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRules:
    """What a server allows."""

    specs: tuple[DecoderSpec, ...]
    """The first is the default."""
    max_pixels: int
    allow_synthetic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """A session that was asked for, checked."""

    spec: DecoderSpec
    geometry: Geometry
    dtype: LatentDtype
    num_latents: int | None
    normalized: bool
    pixel_format: PixelFormat
    max_message_bytes: int
    priority: int
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
        return self.geometry.latent_bytes(self.dtype)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.geometry.frame_size(self.spec)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.pixel_format.frame_bytes(*self.frame_size)


def read_open(header: pb.StreamRequest, rules: OpenRules) -> tuple[pb.Open, OpenRequest]:
    """Take the `Open` out of a session's first request and check it.

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
    return header.open, check_open(header.open, rules)


def check_open(message: pb.Open, rules: OpenRules) -> OpenRequest:
    """Check an `Open`.

    Raises:
        InvalidInput: a field holds a value that isn't allowed.
        NotFound: an unknown model.
    """
    spec = find_model(message.model, rules.specs, field="open.model")
    geometry = _geometry(message, spec, rules)
    height, width = geometry.frame_size(spec)
    pixel_format = _pixel_format(message, height, width, rules.max_pixels)
    if abs(message.priority) > _MAX_PRIORITY:
        raise InvalidInput("open.priority", message.priority, f"{-_MAX_PRIORITY}..{_MAX_PRIORITY}")
    if message.num_latents > MAX_LATENTS:
        raise InvalidInput("open.num_latents", message.num_latents, f"0..{MAX_LATENTS}")
    explicit = _known("open.mode", message.mode, _EXPLICIT_BY_MODE, pb.Mode.Name)
    if message.HasField("resume") and not explicit:
        raise InvalidInput("open.resume", "set", "unset, but in EXPLICIT mode with latents of the client's own")
    _check_start(message, spec)
    return OpenRequest(
        spec=spec,
        geometry=geometry,
        dtype=_known("open.dtype", message.dtype, DTYPES, pb.DataType.Name),
        num_latents=message.num_latents if message.HasField("num_latents") else None,
        normalized=message.normalized,
        pixel_format=pixel_format,
        max_message_bytes=_max_message_bytes(message, pixel_format.frame_bytes(height, width)),
        priority=message.priority,
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


def _check_start(message: pb.Open, spec: DecoderSpec) -> None:
    if message.HasField("resume") and message.resume.next_frame:
        raise InvalidInput("open.resume.next_frame", message.resume.next_frame, "0 for a new session")
    num_latents = message.num_latents if message.HasField("num_latents") else MAX_LATENTS
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
    asked = _known("open.pixel_format", message.pixel_format, PIXEL_FORMATS, pb.PixelFormat.Name)
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
