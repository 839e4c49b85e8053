"""Decoders that exist for measuring only, as a plugin: `server --plugin bench.plugin`. Imports no torch."""

from __future__ import annotations

from typing import Final

import msgspec

from framehaul_pipeline.models.model import TINY_SPEC, DecoderKind
from framehaul_pipeline.spec import DecoderSpec, Exactness

FREE_SPEC: Final = DecoderSpec(
    name="bench-free",
    channels=TINY_SPEC.channels,
    spatial_factor=TINY_SPEC.spatial_factor,
    temporal_factor=TINY_SPEC.temporal_factor,
    first_frames=TINY_SPEC.first_frames,
    lookahead_latents=0,
    exactness=Exactness.FULL,
    receptive_latents=1,
    state_bytes_per_pixel=0.0,
)
"""Grey frames for next to nothing, so that scheduling and transport are what is measured."""

STAND_IN_SPEC: Final = msgspec.structs.replace(FREE_SPEC, name="bench-stand-in")
"""Not a video decoder: as much arithmetic a frame as the Wan 2.1 VAE, see `decoders.StandInDecoder`."""

DECODER: Final = DecoderKind(kind="bench", loader="bench.decoders:load", models=(FREE_SPEC, STAND_IN_SPEC))
PLUGIN: Final = ("--plugin", "bench.plugin")
"""What a server is told to have them."""
