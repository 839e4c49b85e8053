"""A decoder that takes as long as its latents say: the first value of each is milliseconds. A plugin, without torch."""

import msgspec
import numpy as np

from framehaul_pipeline.models.model import TINY_SPEC, DecoderKind
from framehaul_pipeline.spec import Exactness
from tests.support.clips import SIZE, Clip

SPEC = msgspec.structs.replace(
    TINY_SPEC, name="paced", exactness=Exactness.FULL, receptive_latents=1, state_bytes_per_pixel=0.0
)
DECODER = DecoderKind(kind="paced", loader="tests.support.paced_decoder:load", models=(SPEC,))
PLUGIN = ("--plugin", "tests.support.paced")


def paced_clip(num_latents: int, milliseconds: float, *, size: int = SIZE) -> Clip:
    """Latents `[T, C, size, size]` that take so long each."""
    return np.full((num_latents, SPEC.channels, size, size), milliseconds, np.float16)
