"""What a session of one model and size takes, known before anything starts. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from framehaul.formats import LatentDtype, PixelFormat
from framehaul_pipeline.link.messages import Opening
from framehaul_pipeline.scheduling.chunks import max_chunk_latents
from framehaul_pipeline.spec import DecoderSpec, Geometry
from framehaul_server.core.grant import latent_budget
from framehaul_server.core.limits import SessionRules, most_bytes
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.core.packing import DEFAULT_MESSAGE_BYTES, message_bytes
from framehaul_server.core.window import WindowLimits

_EXPLICIT_AND_RESUMABLE = (True, False)
"""Each holds something that the other mode doesn't."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionNeeds:
    """What one session takes, in rgb24 where the pixel format matters."""

    latent_bytes: int
    """Of the smallest number format."""
    frame_bytes: int
    chunk_latents: int
    """Most latents that are decoded together."""
    window: WindowLimits
    state_bytes: int
    """On the device, between two chunks."""
    host_bytes: int
    """Frames and latents that the server may hold for it, in whatever mode and format."""

    @classmethod
    def of(
        cls, spec: DecoderSpec, geometry: Geometry, rules: SessionRules, *, slot_bytes: int, state_itemsize_bytes: int
    ) -> SessionNeeds:
        """Add up for a clip of unknown length; the decoder's state is made of numbers of so many bytes."""
        height, width = geometry.frame_size(spec)
        frame_bytes = PixelFormat.RGB24.frame_bytes(height, width)
        return cls(
            latent_bytes=geometry.latent_bytes(LatentDtype.FLOAT16),
            frame_bytes=frame_bytes,
            chunk_latents=max_chunk_latents(
                spec,
                frame_bytes=frame_bytes,
                slot_bytes=slot_bytes,
                chunk_latents=1 if rules.opening.reproducible else rules.chunk_latents,
            ),
            window=WindowLimits.of(spec, frame_bytes, rules.window_bytes),
            state_bytes=math.ceil(height * width * spec.state_bytes_per_pixel * state_itemsize_bytes / 2),
            host_bytes=max(
                _host_bytes(spec, geometry, rules, pixel_format, dtype, explicit=explicit)
                for pixel_format, dtype, explicit in product(PixelFormat, LatentDtype, _EXPLICIT_AND_RESUMABLE)
                if height * width <= pixel_format.max_pixels(rules.opening.max_pixels)
            ),
        )


def _host_bytes(
    spec: DecoderSpec,
    geometry: Geometry,
    rules: SessionRules,
    pixel_format: PixelFormat,
    dtype: LatentDtype,
    *,
    explicit: bool,
) -> int:
    frame_bytes = pixel_format.frame_bytes(*geometry.frame_size(spec))
    request = OpenRequest(
        spec=spec,
        opening=Opening(
            model=spec.name,
            geometry=geometry,
            num_latents=None,
            dtype=dtype,
            normalized=False,
            pixel_format=pixel_format,
            priority=0,
        ),
        max_message_bytes=max(message_bytes(frame_bytes), DEFAULT_MESSAGE_BYTES),
        explicit=explicit,
        window_frames=None,
        resumable=explicit,
        start_frame=0,
    )
    budget = latent_budget(spec, request.latent_bytes, rules.latent_bytes, rules.chunk_latents)
    return most_bytes(request, WindowLimits.of(spec, frame_bytes, rules.window_bytes), budget, rules)
