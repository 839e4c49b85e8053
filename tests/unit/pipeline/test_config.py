from typing import Any

import pytest

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.models import TINY_SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "gpu"}, "device=gpu: must be auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "device=cuda:x"),
        ({"models": ()}, r"models=\(\): must name at least one model"),
        ({"max_pixels": 63}, r"max_pixels=63: must be 64\.\."),
        ({"num_slots": 1}, r"num_slots=1: must be 2\.\.1024"),
        ({"chunk_latents": 65}, r"chunk_latents=65: must be 1\.\.64"),
        ({"num_inlet_slots": 15}, r"num_inlet_slots=15: must be 16\.\."),
        ({"max_restarts": -1}, r"max_restarts=-1: must be 0\.\."),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    """Field, value and range."""
    with pytest.raises(ValueError, match=message):
        WorkerConfig(**change)


def test_slots_hold_a_latents_frames_at_the_largest_size() -> None:
    """At three bytes a pixel, and the latent in the widest dtype."""
    config = WorkerConfig(device="cuda:1", max_pixels=480 * 832)
    assert config.slot_bytes((TINY_SPEC,)) == 4 * 480 * 832 * 3
    assert config.inlet_slot_bytes((TINY_SPEC,)) == 16 * 60 * 104 * 4
