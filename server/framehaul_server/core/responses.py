"""The control responses of a session. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from framehaul.causes import Cause
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import CAUSES, PIXEL_FORMATS
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.core.window import WindowLimits


def queued(position: int) -> pb.StreamResponse:
    """Where a session stands that waits for its place; 1 is next."""
    return pb.StreamResponse(queued=pb.Queued(position=position))


def opened(
    request: OpenRequest,
    limits: WindowLimits,
    *,
    session_id: bytes,
    request_id: str,
    next_latent: int,
    latents_until: int,
) -> pb.StreamResponse:
    """The first response on a connection."""
    height, width = request.frame_size
    return pb.StreamResponse(
        opened=pb.Opened(
            session_id=session_id,
            request_id=request_id,
            model=request.spec.name,
            height=height,
            width=width,
            pixel_format=PIXEL_FORMATS[request.opening.pixel_format],
            frame_bytes=request.frame_bytes,
            max_message_bytes=request.max_message_bytes,
            min_window_frames=limits.min_frames,
            max_window_frames=limits.max_frames,
            first_frames=request.spec.first_frames,
            temporal_factor=request.spec.temporal_factor,
            lookahead_latents=request.spec.lookahead_latents,
            next_latent=next_latent,
            history_latents=request.spec.history_latents,
            reproducible=request.opening.reproducible,
            period_latents=request.spec.period_latents,
        ),
        latents_until=latents_until,
    )


def grant(latents_until: int) -> pb.StreamResponse:
    """More latents are welcome."""
    return pb.StreamResponse(latents_until=latents_until)


def drain(grace_s: float) -> pb.StreamResponse:
    """The server will stop."""
    return pb.StreamResponse(drain=pb.Drain(grace_ms=round(grace_s * 1000)))


def done(num_frames: int, num_latents: int, seconds: Mapping[Cause, float]) -> pb.StreamResponse:
    """The last response; `seconds` is what the session's time went to."""
    return pb.StreamResponse(
        done=pb.Done(num_frames=num_frames, num_latents=num_latents, charged=charged(seconds)),
    )


def charged(seconds: Mapping[Cause, float]) -> list[pb.Charged]:
    """Time that was charged to causes."""
    return [pb.Charged(cause=CAUSES[cause], seconds=each) for cause, each in seconds.items()]
