"""What clients are told of the models, and of the largest response. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from framehaul.formats import SLOT_BYTES_PER_PIXEL
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.spec import DecoderSpec, Exactness
from framehaul_server.core.packing import DEFAULT_MESSAGE_BYTES, message_bytes

_EXACTNESS: Final = MappingProxyType(
    {
        Exactness.FULL: pb.EXACTNESS_FULL,
        Exactness.LIBRARY_PARTITION: pb.EXACTNESS_LIBRARY_PARTITION,
        Exactness.LIBRARY_TILES: pb.EXACTNESS_LIBRARY_TILES,
        Exactness.APPROXIMATE: pb.EXACTNESS_APPROXIMATE,
    }
)


def model_info(spec: DecoderSpec, rates: Sequence[pb.MeasuredRate] = ()) -> pb.ModelInfo:
    """What a client can know of a model, and what it took here."""
    return pb.ModelInfo(
        name=spec.name,
        channels=spec.channels,
        spatial_factor=spec.spatial_factor,
        temporal_factor=spec.temporal_factor,
        first_frames=spec.first_frames,
        lookahead_latents=spec.lookahead_latents,
        exactness=_EXACTNESS[spec.exactness],
        receptive_latents=spec.receptive_latents,
        state_bytes_per_pixel=spec.state_bytes_per_pixel,
        normalization=bool(spec.latent_std),
        tile_latents=spec.tile_latents,
        tile_stride_latents=spec.tile_stride_latents,
        period_latents=spec.period_latents,
        rates=rates,
    )


def max_response_bytes(max_pixels: int) -> int:
    """Largest response of a server that makes frames of up to `max_pixels`."""
    return max(DEFAULT_MESSAGE_BYTES, message_bytes(max_pixels * SLOT_BYTES_PER_PIXEL))
