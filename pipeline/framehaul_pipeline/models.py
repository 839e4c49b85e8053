"""The models this build serves, by name. Pure: importing it imports no torch."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from framehaul_pipeline.spec import DecoderSpec, Exactness

TINY_SPEC: Final = DecoderSpec(
    name="tiny",
    channels=16,
    spatial_factor=8,
    temporal_factor=4,
    first_frames=4,
    lookahead_latents=0,
    exactness=Exactness.FULL,
    receptive_latents=5,
    state_bytes_per_pixel=138.0,
)

MODELS: Final = MappingProxyType({spec.name: spec for spec in (TINY_SPEC,)})
