import math

import pytest
from bench.gpu_wan import parse_size
from bench.harness import slope
from bench.wan_decode import decode_table
from bench.wan_serving import affordable, headline_table, memory_table


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_rates_are_those_of_the_clips_arithmetic() -> None:
    """TFLOP/s, share of the matrix rate, and how many times as fast as each rival."""
    common = {"spread": 1.0, "peak_bytes": 5e9, "warm_up_s": 3.0}
    found = {
        "diffusers": {"seconds": 2.0, **common},
        "fastvae": {"seconds": 1.0, **common},
        "ours-2": {"seconds": 0.5, **common},
    }
    errors = {"ours-2": {"relative": 0.015, "psnr_db": 50.0}}
    rows = {row[0]: row[1:] for row in cells(decode_table(found, errors, flop=200e12, rate=800e12))}
    ours = rows["**Framehaul**, 2 latents a step"]
    assert ours == [
        "0.5",
        "1.00x",
        "400",
        "50%",
        "5",
        "4.00x",
        "2.00x",
        "1.50e-02",
        "50",
        "3",
    ]
    assert rows["fastvae 0.1.0"][5:9] == ["2.00x", "1.00x", "-", "-"]


def test_a_rival_that_failed_leaves_a_dash() -> None:
    """Nothing is compared with what isn't there; without a GPU there is no matrix rate and no peak."""
    found = {"ours-1": {"seconds": 0.5, "spread": 1.0, "peak_bytes": 0.0, "warm_up_s": 1.0}}
    (row,) = cells(decode_table(found, {}, flop=1e12, rate=math.nan))
    assert row[4:8] == ["-", "-", "-", "-"]


def test_the_headline_says_how_much_sooner() -> None:
    """Against the serial loop; a profile that failed shows why."""
    figures = {"first_frame_s": 0.04, "num_frames": 161.0, "spread": 1.1}
    found = {"serial": {"wall_s": 6.0, **figures}, "framehaul": {"wall_s": 1.5, **figures}}
    rows = cells(headline_table(found, {"serial": {"error": "no CUPTI"}, "framehaul": {"busy": 0.9991}}))
    assert [row[4] for row in rows] == ["0.0%", "75.0%"]
    assert [row[6] for row in rows] == ["no CUPTI", "99.91%"]


def test_a_straight_line_has_its_own_slope() -> None:
    """Exact on a line, whatever the distances; NaN where nothing rises because nothing moves."""
    assert slope([(0.0, 1.0), (1.0, 3.0), (5.0, 11.0)]) == pytest.approx(2.0)
    assert math.isnan(slope([(1.0, 1.0), (1.0, 2.0)]))
    assert math.isnan(slope([]))


def test_memory_is_judged_once_the_clip_has_settled() -> None:
    """What is taken in the first fifth doesn't count as growth; what comes later does, for each 1,000 latents."""
    mib = 1 << 20
    flat = [{"at_s": float(at), "device, allocated": (0.0 if at < 2 else 10.0) * mib} for at in range(11)]
    rising = [{"at_s": float(at), "device, allocated": float(at) * mib} for at in range(11)]
    assert cells(memory_table(flat, latents_per_s=10.0)) == [["device, allocated", "10", "10", "10", "+0.00"]]
    assert cells(memory_table(rising, latents_per_s=10.0))[0][-1] == "+100.00"


def test_rounds_fit_the_time_that_is_left() -> None:
    """As many as wanted, fewer where time is short, one in any case."""
    assert [affordable(3, 10.0, left_s) for left_s in (100.0, 25.0, 0.0)] == [3, 2, 1]


def test_a_size_is_height_by_width() -> None:
    """As sizes are written everywhere else."""
    assert parse_size("480x832") == (480, 832)
    with pytest.raises(ValueError, match="invalid literal"):
        parse_size("480")
