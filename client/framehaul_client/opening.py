"""The opening handshake as values: what a session asks for, and what the server answers; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from framehaul.v1 import frames_pb2 as pb
from framehaul_client.config import SessionConfig
from framehaul_client.errors import ProtocolError
from framehaul_client.frames import PIXEL_FORMATS, FrameLayout
from framehaul_client.latents import LATENT_TYPES, LatentFormat
from framehaul_client.window import fit_window

_FIRST_WINDOW_FRAMES: Final = 16  # until the size of a frame is known
_WINDOW_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What the server agreed to.

    Attributes:
        session_id: whoever knows it owns the session.
        model: name of the decoder.
        layout: size and pixel format of every frame.
        first_frames: frames of the first latent.
        temporal_factor: frames of every later latent.
        lookahead_latents: the most later latents that a frame waits for.
        window_frames: frames that may wait at the client.
    """

    session_id: bytes
    model: str
    layout: FrameLayout
    first_frames: int
    temporal_factor: int
    lookahead_latents: int
    window_frames: int

    def num_frames(self, num_latents: int) -> int:
        """Count the frames of a clip of `num_latents`, 1 or more."""
        return self.first_frames + (num_latents - 1) * self.temporal_factor


def open_request(config: SessionConfig, latents: LatentFormat) -> pb.StreamRequest:
    """Make the first message of a session in EXPLICIT mode."""
    channels, height, width = latents.shape
    return pb.StreamRequest(
        open=pb.Open(
            model=config.model,
            geometry=pb.LatentGeometry(channels=channels, height=height, width=width),
            dtype=LATENT_TYPES[latents.dtype],
            num_latents=config.num_latents,
            normalized=config.normalized,
            pixel_format=PIXEL_FORMATS[config.pixel_format],
            max_message_bytes=config.max_message_bytes,
            priority=config.priority,
            mode=pb.MODE_EXPLICIT,
            window_frames=config.window_frames or _FIRST_WINDOW_FRAMES,
        )
    )


def read_opened(message: pb.Opened, config: SessionConfig) -> Opened:
    """Check the server's answer against what was asked for.

    Raises:
        ProtocolError: it isn't an answer to that.
    """
    if message.pixel_format != PIXEL_FORMATS[config.pixel_format]:
        raise ProtocolError(
            f"the server opened pixel_format={message.pixel_format}: {config.pixel_format} was asked for"
        )
    try:
        layout = FrameLayout(pixel_format=config.pixel_format, height=message.height, width=message.width)
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
    )
