from typing import Any

import msgspec
import pytest

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.link.messages import MAX_MESSAGE_BYTES, Configure, encode
from framehaul_pipeline.models.model import BUILT_IN, TINY, TINY_SPEC
from framehaul_pipeline.models.wan import parse_wan_config, wan_spec

HUGE = msgspec.structs.replace(TINY, spec=msgspec.structs.replace(TINY_SPEC, name="huge"), path="/" + "x" * 61440)
COARSE = msgspec.structs.replace(TINY, spec=msgspec.structs.replace(TINY_SPEC, name="coarse", spatial_factor=16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "gpu"}, "device=gpu: must be auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "device=cuda:x"),
        ({"models": ()}, r"models=\(\): must name at least one model"),
        ({"max_pixels": 63}, r"max_pixels=63: must be 64\.\."),
        (
            {"models": (COARSE,), "max_pixels": 255},
            "max_pixels=255: must be at least 256, which one",
        ),
        ({"num_slots": 1}, r"num_slots=1: must be 2\.\.1024"),
        ({"chunk_latents": 65}, r"chunk_latents=65: must be 1\.\.64"),
        ({"num_inlet_chunks": 5}, r"num_inlet_chunks=5: must be 6\.\.1024"),
        ({"device_memory_bytes": 0}, r"device_memory_bytes=0: must be 16777216\.\."),
        ({"park_bytes": -1}, r"park_bytes=-1: must be 0\.\."),
        ({"max_restarts": -1}, r"max_restarts=-1: must be 0\.\."),
        ({"models": (TINY, TINY)}, "models=tiny,tiny: must each have a name of its own"),
        ({"models": (TINY, HUGE)}, "models=tiny,huge: descriptions must be at most 61440 bytes together"),
        ({"warm_up": ((64, 60),)}, "warm_up=64x60: must be multiples of 8 for model 'tiny'"),
        ({"warm_up": ((60, 64),)}, "warm_up=60x64"),
        ({"warm_up": ((64, 64), (0, 64))}, "warm_up=0x64: must be a size of up to 2088960 pixels"),
        ({"warm_up": ((1920, 1096),)}, "warm_up=1920x1096"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    """Field, value and range."""
    with pytest.raises(ValueError, match=message):
        WorkerConfig(**change)


def test_slots_hold_a_latents_frames_at_the_largest_size() -> None:
    """At three bytes a pixel, and the latent in the widest dtype."""
    config = WorkerConfig(device="cuda:1", max_pixels=480 * 832)
    assert config.slot_bytes == 4 * 480 * 832 * 3
    tiled = msgspec.structs.replace(
        TINY_SPEC, name="tiled", first_frames=1, lookahead_latents=4, tile_latents=5, tile_stride_latents=3
    )
    both = WorkerConfig(models=(TINY, msgspec.structs.replace(TINY, spec=tiled)), max_pixels=480 * 832)
    assert both.slot_bytes == 17 * 480 * 832 * 3
    assert config.inlet_slot_bytes == 16 * 60 * 104 * 4


def test_slots_hold_what_the_largest_of_several_models_needs() -> None:
    """Most frames a latent of one, most bytes a latent of the other."""
    other = msgspec.structs.replace(TINY_SPEC, name="other", temporal_factor=8, channels=4)
    models = (TINY, msgspec.structs.replace(TINY, spec=other))
    config = WorkerConfig(models=models, max_pixels=480 * 832)
    assert config.specs == (TINY_SPEC, other)
    assert config.slot_bytes == 8 * 480 * 832 * 3
    assert config.inlet_slot_bytes == 16 * 60 * 104 * 4


def test_sixteen_models_of_wans_size_fit_the_message_to_the_worker() -> None:
    """With paths of usual length."""
    wan = parse_wan_config({})
    models = tuple(
        BUILT_IN[1].model(
            wan_spec(f"wan-{number}", wan),
            path="/models/" + "p" * 200,
            config=msgspec.to_builtins(wan),
            sha256="0" * 64,
        )
        for number in range(16)
    )
    config = WorkerConfig(
        models=models,
        device_memory_bytes=1 << 40,
        park_bytes=1 << 40,
        warm_up=((832, 480), (1280, 720)),
    )
    configure = Configure(epoch=1, config=config)
    assert len(encode(configure)) <= MAX_MESSAGE_BYTES
