import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client.command.info import cost_lines, info_text, model_lines, models_json
from framehaul_client.core.info import Model, Rate, read_info
from framehaul_client.errors import ProtocolError

TINY = Model(
    name="tiny",
    channels=16,
    spatial_factor=8,
    temporal_factor=4,
    first_frames=4,
    lookahead_latents=0,
    exactness="full",
    receptive_latents=5,
    state_bytes_per_pixel=138.0,
    normalization=False,
    tile_latents=0,
    tile_stride_latents=0,
    period_latents=0,
)
WAN = replace(
    TINY, name="wan2.2", spatial_factor=16, first_frames=1, receptive_latents=None, state_bytes_per_pixel=3569.2,
    normalization=True,
)  # fmt: skip
PICTURES = replace(TINY, name="sd", temporal_factor=1, first_frames=1, receptive_latents=1, lookahead_latents=2)
H3 = replace(TINY, name="h3", first_frames=1, period_latents=5)
TILES = replace(TINY, name="tiles", first_frames=5, lookahead_latents=4, tile_latents=5, tile_stride_latents=3)


def test_columns_are_aligned() -> None:
    """A heading, then a model a line; the first is the default."""
    lines = model_lines([TINY, WAN, PICTURES, TILES, H3])
    assert [line.split("  ")[0] for line in lines] == ["model", "tiny (default)", "wan2.2", "sd", "tiles", "h3"]
    for heading, cells in {
        "cell": ["8x8", "16x16", "8x8", "8x8", "8x8"],
        "frames of n latents": ["4 n", "4 n - 3", "n", "4 n + 1", "17 each 5"],
        "lookahead": ["0 latents", "0 latents", "2 latents", "tiles of 5 every 3", "0 latents"],
        "looks back": ["4 latents", "all latents", "0 latents", "4 latents", "4 latents"],
        "mean, std": ["no", "yes", "no", "no", "no"],
        "state": ["138 B a pixel", "3569 B a pixel", "138 B a pixel", "138 B a pixel", "138 B a pixel"],
    }.items():
        start = lines[0].index(heading)
        assert [line[start:].split("  ")[0] for line in lines[1:]] == cells


def test_a_size_gives_the_memory_of_a_session() -> None:
    """Where a model can make that size."""
    lines = model_lines([TINY, WAN], (840, 480))
    assert lines[0].endswith("state at 840x480")
    assert lines[1].endswith("  53 MiB")
    assert lines[2].endswith("  not a multiple of its cell")
    assert TINY.state_bytes(840, 480) == 138 * 840 * 480
    assert [WAN.state_bytes(832, 488), WAN.state_bytes(832, 480)] == [None, round(3569.2 * 832 * 480)]


def test_json_has_every_field() -> None:
    """And the state's bytes for a size."""
    models = json.loads(models_json([TINY, WAN]))
    assert [model["name"] for model in models] == ["tiny", "wan2.2"]
    assert models[1]["receptive_latents"] is None
    assert "state_bytes" not in models[0]
    models = json.loads(models_json([TINY, WAN], (840, 480)))
    assert [model["state_bytes"] for model in models] == [138 * 840 * 480, None]


def test_a_servers_words_can_not_drive_a_terminal() -> None:
    """Whatever it calls itself and its models."""
    evil = "a\x1b[2J\nb\u202e"
    info = read_info(
        pb.ServerInfo(version=evil, device=evil, models=[pb.ModelInfo(name=evil), pb.ModelInfo(name=evil)])
    )
    lines = info_text("host:1", info).split("\n")
    assert all(line.isprintable() for line in lines)
    assert [line.count(r"a\x1b[2J\nb\u202e") for line in lines] == [2, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0])
def test_memory_that_is_no_number_is_refused(number: float) -> None:
    with pytest.raises(ProtocolError, match=r"state_bytes_per_pixel=.*: must be 0 or more"):
        read_info(pb.ServerInfo(models=[pb.ModelInfo(name="m", state_bytes_per_pixel=number)]))


RATED = replace(
    TINY,
    rates=(
        Rate(width=832, height=480, num_frames=300, device_s=3.0, kernels_s=2.5),
        Rate(width=1280, height=720, num_frames=100, device_s=2.0, kernels_s=0.0),
    ),
)


def test_what_a_video_costs_is_said_for_what_was_measured() -> None:
    """1,000 hours at 24 frames/s are 86,400,000 frames: 240 hours of a device that makes 100 a second."""
    assert [line.split() for line in cost_lines([RATED, WAN], 4.0, Fraction(24))][1:] == [
        ["tiny", "832x480", "100.0", "960.00"],
        ["tiny", "1280x720", "50.0", "1,920.00"],
        ["wan2.2", "-", "not", "measured", "yet", "-"],
    ]
    assert [line.split() for line in cost_lines([RATED, WAN], 2.0, Fraction(30), (832, 480))][1:] == [
        ["tiny", "832x480", "100.0", "600.00"],
        ["wan2.2", "832x480", "not", "measured", "yet", "-"],
    ]
    (model,) = json.loads(models_json([RATED], price=4.0, fps=Fraction(24)))
    assert [rate["cost"] for rate in model["rates"]] == [960.0, 1920.0]
    assert "cost" not in json.loads(models_json([RATED]))[0]["rates"][0]


def test_rates_are_read_as_the_server_tells_them() -> None:
    message = pb.MeasuredRate(width=832, height=480, num_frames=300, device_s=3.0, kernels_s=2.5)
    (model,) = read_info(pb.ServerInfo(models=[pb.ModelInfo(name="m", rates=[message])])).models
    assert model.rates == RATED.rates[:1]
    assert model.rates[0].frames_per_s == 100.0


@pytest.mark.parametrize(
    "wrong", [{"num_frames": 0}, {"device_s": 0.0}, {"device_s": math.nan}, {"device_s": math.inf}, {"kernels_s": -1.0}]
)
def test_a_rate_that_is_none_is_the_servers_fault(wrong: dict[str, Any]) -> None:
    """Nothing is computed from it."""
    values: dict[str, Any] = {"num_frames": 300, "device_s": 3.0, "kernels_s": 2.5}
    with pytest.raises(ProtocolError, match="rates="):
        read_info(pb.ServerInfo(models=[pb.ModelInfo(name="m", rates=[pb.MeasuredRate(**{**values, **wrong})])]))
