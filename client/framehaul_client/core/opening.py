"""The opening handshake as values: what a session asks for, and what the server answers; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from framehaul import clip
from framehaul.formats import PixelFormat
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import DATA_TYPES, MAX_AGE_MS, PIXEL_FORMATS
from framehaul_client.core.frames import FrameLayout
from framehaul_client.core.latents import LatentFormat
from framehaul_client.core.session_config import SessionConfig
from framehaul_client.core.window import fit_window
from framehaul_client.errors import DataLoss, InvalidLatents, ProtocolError, Unsupported

_FIRST_WINDOW_FRAMES: Final = 16  # until the size of a frame is known
_WINDOW_BYTES: Final = 64 << 20
_SESSION_ID_BYTES: Final = 24
# Far beyond what decoders have; so that no answer makes this end wait, count or hold without limit.
_MAX_FACTOR: Final = 64
_MAX_FRAMES_OF_A_LATENT: Final = 1024
_MAX_LEAST_WINDOW_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What the server agreed to.

    Attributes:
        session_id: proves ownership of the session.
        model: name of the decoder.
        layout: size and pixel format of every frame.
        first_frames: frames of the first latent.
        temporal_factor: frames of every later latent.
        period_latents: each latent whose index is a multiple of it gives `first_frames`; 0: the first alone.
        lookahead_latents: the most later latents that a frame waits for.
        window_frames: frames that may wait at the client.
        min_window_frames: the smallest window that the server accepts.
        next_latent: the latent that the server expects next.
        history_latents: how many latents before its own a new session's first frame needs; None for all.
        reproducible: the same latents give the same bytes, whatever else the server does.
        request_id: of the call, in the server's log and traces; empty from servers that don't say.
    """

    session_id: bytes = field(repr=False)  # a secret: it belongs in no log
    model: str
    layout: FrameLayout
    first_frames: int
    temporal_factor: int
    period_latents: int
    lookahead_latents: int
    window_frames: int
    min_window_frames: int
    next_latent: int
    history_latents: int | None
    reproducible: bool
    request_id: str = ""

    @property
    def clip_rule(self) -> str:
        """What stays as it is while a session lasts, in words: the decoder, and how latents become frames."""
        layout = self.layout
        return (
            f"{self.model}, {layout.width}x{layout.height} {layout.pixel_format}, "
            f"{self.first_frames} frames and {self.temporal_factor} of each later latent"
            f"{f', again each {self.period_latents}' if self.period_latents else ''}"
            f"{', reproducible' if self.reproducible else ''}"
        )

    def num_frames(self, num_latents: int) -> int:
        """Count the frames of a clip of `num_latents`, 1 or more."""
        return clip.num_frames(num_latents, self.first_frames, self.temporal_factor, self.period_latents)

    def first_latent_needed(self, next_frame: int) -> int:
        """Find the first latent that a new session starting at `next_frame` needs."""
        return clip.first_latent_for(
            next_frame, self.first_frames, self.temporal_factor, self.history_latents, self.period_latents
        )


def open_message(config: SessionConfig, latents: LatentFormat) -> pb.Open:
    """Ask for a new session in EXPLICIT mode that outlives its connection."""
    channels, height, width = latents.shape
    return pb.Open(
        model=config.model,
        geometry=pb.LatentGeometry(channels=channels, height=height, width=width),
        dtype=DATA_TYPES[latents.dtype],
        num_latents=config.num_latents,
        normalized=config.normalized,
        pixel_format=PIXEL_FORMATS[PixelFormat(config.pixel_format)],
        max_message_bytes=config.max_message_bytes,
        priority=config.priority,
        mode=pb.MODE_EXPLICIT,
        window_frames=config.window_frames or _FIRST_WINDOW_FRAMES,
        start_frame=config.start_frame,
        resume=pb.Resume() if config.retry_for_s else None,
        restart_latents=config.restart_latents or 0,
        reproducible=config.reproducible,
    )


def restarted(message: pb.Open, next_frame: int, room_frames: int, *, reproducible: bool) -> pb.Open:
    """Ask for a new session like the one that the server has lost, from `next_frame` on."""
    changed = pb.Open()
    changed.CopyFrom(message)
    changed.resume.Clear()
    changed.resume.SetInParent()
    changed.start_frame = next_frame
    changed.reproducible = reproducible
    changed.window_frames = max(1, min(message.window_frames, room_frames))
    return changed


def aged(message: pb.Open, age_s: float) -> pb.Open:
    """Ask for the same, as of a client that first asked `age_s` ago, wherever that was."""
    changed = pb.Open()
    changed.CopyFrom(message)
    changed.age_ms = min(int(age_s * 1000), MAX_AGE_MS)
    return changed


def resumed(message: pb.Open, session_id: bytes, next_frame: int) -> pb.Open:
    """Ask for the session that `message` opened."""
    changed = pb.Open()
    changed.CopyFrom(message)
    changed.resume.session_id = session_id
    changed.resume.next_frame = next_frame
    return changed


def read_opened(
    message: pb.Opened, asked: pb.Open, config: SessionConfig, *, before: Opened | None = None, num_sent: int = 0
) -> Opened:
    """Hold all of the server's answer against what was asked for: nothing else of a session does.

    Args:
        message: the answer.
        asked: what it answers.
        config: of the session.
        before: the session's last answer, if it was opened before: clip and decoder are still the same then.
        num_sent: the most latents that were sent so far.

    Raises:
        ProtocolError: it isn't an answer to that.
        DataLoss: the session can't go on as it began.
        Unsupported: the server knows nothing of reproducible sessions, or of cold starts within a clip.
    """
    if config.reproducible and not message.reproducible:
        raise Unsupported("reproducible=True: this server is older than that, leave it out or ask a newer one")
    if asked.restart_latents and message.period_latents != asked.restart_latents:
        raise Unsupported(
            f"restart_latents={asked.restart_latents}: this server is older than that, leave it out or ask a newer one"
        )
    layout = _check_layout(message, asked)
    _check_numbers(message, layout)
    if message.model != asked.model and asked.model:
        raise _wrong("model", repr(message.model), f"{asked.model!r}, as asked for")
    if not message.model.isprintable() or not message.model:
        raise _wrong("model", ascii(message.model), "a name")
    if message.max_message_bytes > asked.max_message_bytes or layout.frame_bytes > asked.max_message_bytes:
        found = max(message.max_message_bytes, layout.frame_bytes)
        raise _wrong("max_message_bytes", found, f"0..{asked.max_message_bytes}, and hold a frame")
    wanted_frames = config.window_frames or max(_FIRST_WINDOW_FRAMES, _WINDOW_BYTES // layout.frame_bytes)
    opened = Opened(
        session_id=message.session_id,
        model=message.model,
        layout=layout,
        first_frames=message.first_frames,
        temporal_factor=message.temporal_factor,
        period_latents=message.period_latents,
        lookahead_latents=message.lookahead_latents,
        window_frames=fit_window(wanted_frames, message.min_window_frames, message.max_window_frames),
        min_window_frames=message.min_window_frames,
        next_latent=message.next_latent,
        history_latents=message.history_latents if message.HasField("history_latents") else None,
        reproducible=message.reproducible,
        request_id=message.request_id,
    )
    _check_place(opened, asked, num_sent)
    if before is not None and opened.clip_rule != before.clip_rule:
        raise DataLoss(f"the session was opened with {before.clip_rule}: the server goes on with {opened.clip_rule}")
    return opened


def frames_wanted(opened: Opened, num_latents: int | None, num_frames: int | None) -> int | None:
    """Frames of the clip: all that its latents give, or `num_frames`, if the rest is the last latent's filling.

    Latents that the last frame waits for may stand behind its own.

    Raises:
        InvalidLatents: the latents don't give so many, or one latent less would do.
    """
    if num_latents is None:
        return None
    most = opened.num_frames(num_latents)
    before_last = num_latents - 1 - opened.lookahead_latents
    fewest = 1 + (opened.num_frames(before_last) if before_last > 0 else 0)
    if num_frames is not None and not fewest <= num_frames <= most:
        raise InvalidLatents(
            f"num_frames={num_frames} (in a file framehaul.frames): {num_latents} latents of {opened.model} have "
            f"{fewest}..{most}"
        )
    return num_frames or most


def _check_layout(message: pb.Opened, asked: pb.Open) -> FrameLayout:
    """Frames are as asked for, and as large as the latents make them."""
    pixel_format = next(each for each, number in PIXEL_FORMATS.items() if number == asked.pixel_format)
    if message.pixel_format != asked.pixel_format:
        raise ProtocolError(f"the server opened pixel_format={message.pixel_format}: {pixel_format} was asked for")
    geometry = asked.geometry
    factor = message.height // geometry.height
    if not 1 <= factor <= _MAX_FACTOR or (message.height, message.width) != (
        geometry.height * factor,
        geometry.width * factor,
    ):
        raise _wrong(
            "height, width",
            f"{message.height}, {message.width}",
            f"1..{_MAX_FACTOR} times the latents' {geometry.height}, {geometry.width}",
        )
    try:
        layout = FrameLayout(pixel_format=pixel_format, height=message.height, width=message.width)
    except ValueError as error:
        raise ProtocolError(f"the server opened a session with {error}") from error
    if message.frame_bytes != layout.frame_bytes:
        raise ProtocolError(
            f"the server opened frame_bytes={message.frame_bytes}: "
            f"{layout.width}x{layout.height} {layout.pixel_format} has {layout.frame_bytes}"
        )
    return layout


def _check_numbers(message: pb.Opened, layout: FrameLayout) -> None:
    """Factors and limits are such as a decoder can have."""
    for name in ("first_frames", "temporal_factor"):
        if not 1 <= (found := getattr(message, name)) <= _MAX_FRAMES_OF_A_LATENT:
            raise _wrong(name, found, f"1..{_MAX_FRAMES_OF_A_LATENT}")
    most_frames = max(_FIRST_WINDOW_FRAMES, _MAX_LEAST_WINDOW_BYTES // layout.frame_bytes)
    if message.max_window_frames:
        most_frames = min(most_frames, message.max_window_frames)
    if message.min_window_frames > most_frames:
        raise _wrong("min_window_frames", message.min_window_frames, f"0..{most_frames}")


def _check_place(opened: Opened, asked: pb.Open, num_sent: int) -> None:
    """The session is the one that was asked for, and goes on where it can."""
    if asked.HasField("resume") and len(opened.session_id) != _SESSION_ID_BYTES:
        raise _wrong("session_id", f"{len(opened.session_id)} bytes", f"{_SESSION_ID_BYTES} bytes")
    if asked.resume.session_id:
        if opened.session_id != asked.resume.session_id:
            raise ProtocolError("the server opened another session_id: the one asked for was to be resumed")
        # The frames that have come were made of some latents, and no others than were sent can have arrived.
        first = clip.latents_whole(
            asked.resume.next_frame, opened.first_frames, opened.temporal_factor, opened.period_latents
        )
        last = num_sent
    else:
        first = last = opened.first_latent_needed(asked.start_frame)
    if not first <= opened.next_latent <= last:
        raise _wrong("next_latent", opened.next_latent, f"{first}..{last}")


def _wrong(field: str, found: object, allowed: str) -> ProtocolError:
    return ProtocolError(f"the server opened {field}={found}: must be {allowed}")
