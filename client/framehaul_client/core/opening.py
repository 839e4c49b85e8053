"""The opening handshake as values: what a session asks for, and what the server answers; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from framehaul import clip
from framehaul.formats import PixelFormat
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import DATA_TYPES, PIXEL_FORMATS
from framehaul_client.core.frames import FrameLayout
from framehaul_client.core.latents import LatentFormat
from framehaul_client.core.session_config import SessionConfig
from framehaul_client.core.window import fit_window
from framehaul_client.errors import ProtocolError, Unsupported

_FIRST_WINDOW_FRAMES: Final = 16  # until the size of a frame is known
_WINDOW_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What the server agreed to.

    Attributes:
        session_id: proves ownership of the session.
        model: name of the decoder.
        layout: size and pixel format of every frame.
        first_frames: frames of the first latent.
        temporal_factor: frames of every later latent.
        lookahead_latents: the most later latents that a frame waits for.
        window_frames: frames that may wait at the client.
        min_window_frames: the smallest window that the server accepts.
        next_latent: the latent that the server expects next.
        history_latents: how many latents before its own a new session's first frame needs; None for all.
        reproducible: the same latents give the same bytes, whatever else the server does.
    """

    session_id: bytes
    model: str
    layout: FrameLayout
    first_frames: int
    temporal_factor: int
    lookahead_latents: int
    window_frames: int
    min_window_frames: int
    next_latent: int
    history_latents: int | None
    reproducible: bool

    @property
    def agreed(self) -> tuple[str, FrameLayout, bool]:
        """What every server that goes on with the session must agree to."""
        return self.model, self.layout, self.reproducible

    def num_frames(self, num_latents: int) -> int:
        """Count the frames of a clip of `num_latents`, 1 or more."""
        return clip.num_frames(num_latents, self.first_frames, self.temporal_factor)

    def first_latent_needed(self, next_frame: int) -> int:
        """Find the first latent that a new session starting at `next_frame` needs."""
        return clip.first_latent_for(next_frame, self.first_frames, self.temporal_factor, self.history_latents)


def open_message(config: SessionConfig, latents: LatentFormat) -> pb.Open:
    """Ask for a new session in EXPLICIT mode, from frame 0 on, that outlives its connection."""
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
        resume=pb.Resume() if config.retry_for_s else None,
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


def resumed(message: pb.Open, session_id: bytes, next_frame: int) -> pb.Open:
    """Ask for the session that `message` opened."""
    changed = pb.Open()
    changed.CopyFrom(message)
    changed.resume.session_id = session_id
    changed.resume.next_frame = next_frame
    return changed


def read_opened(message: pb.Opened, config: SessionConfig) -> Opened:
    """Check the server's answer against what was asked for.

    Raises:
        ProtocolError: it isn't an answer to that.
        Unsupported: the server knows nothing of reproducible sessions.
    """
    if config.reproducible and not message.reproducible:
        raise Unsupported("reproducible=True: this server is older than that, leave it out or ask a newer one")
    pixel_format = PixelFormat(config.pixel_format)
    if message.pixel_format != PIXEL_FORMATS[pixel_format]:
        raise ProtocolError(f"the server opened pixel_format={message.pixel_format}: {pixel_format} was asked for")
    try:
        layout = FrameLayout(pixel_format=pixel_format, height=message.height, width=message.width)
    except ValueError as error:
        raise ProtocolError(f"the server opened a session with {error}") from error
    if message.frame_bytes != layout.frame_bytes:
        raise ProtocolError(
            f"the server opened frame_bytes={message.frame_bytes}: "
            f"{layout.width}x{layout.height} {layout.pixel_format} has {layout.frame_bytes}"
        )
    wanted_frames = config.window_frames or max(_FIRST_WINDOW_FRAMES, _WINDOW_BYTES // layout.frame_bytes)
    return Opened(
        session_id=message.session_id,
        model=message.model,
        layout=layout,
        first_frames=message.first_frames,
        temporal_factor=message.temporal_factor,
        lookahead_latents=message.lookahead_latents,
        window_frames=fit_window(wanted_frames, message.min_window_frames, message.max_window_frames),
        min_window_frames=message.min_window_frames,
        next_latent=message.next_latent,
        history_latents=message.history_latents if message.HasField("history_latents") else None,
        reproducible=message.reproducible,
    )
