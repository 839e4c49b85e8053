"""Which parts of a film are read."""

import math

import numpy as np
import pytest

from framehaul_pipeline.highlight import rank
from framehaul_pipeline.highlight.messages import FilmInfo
from framehaul_server.highlight.segments import key_frames_suffice, spans_worth_reading, split


def film(duration: float, keys: tuple[float, ...] = (), *, seekable: bool = True) -> FilmInfo:
    return FilmInfo(
        duration=duration,
        width=160,
        height=90,
        rate_numerator=10,
        rate_denominator=1,
        seekable=seekable,
        key_times=keys,
    )


@pytest.mark.parametrize(
    ("info", "spans"),
    [
        (film(5), [(0, math.inf)]),
        (film(0), [(0, math.inf)]),
        (film(100, seekable=False), [(0, math.inf)]),
        (film(40), [(0, 10), (10, 20), (20, 30), (30, math.inf)]),
        (film(40, (0, 12, 19, 30)), [(0, 12), (12, 19), (19, 30), (30, math.inf)]),
        (film(40, (0, 1)), [(0, 1), (1, math.inf)]),
    ],
)
def test_parts_begin_with_key_frames_and_cover_the_film(info: FilmInfo, spans: list[tuple[float, float]]) -> None:
    assert split(info, 2) == spans


@pytest.mark.parametrize(
    ("duration", "apart", "suffice"), [(300, 5, True), (300, 6, False), (60, 1, False), (300, 400, False)]
)
def test_key_frames_tell_enough_of_a_long_film_with_many(duration: float, apart: float, suffice: bool) -> None:
    keys = tuple(float(time) for time in np.arange(0, duration, apart))
    assert key_frames_suffice(film(duration, keys)) is suffice


def test_a_gap_between_key_frames_may_hide_something() -> None:
    keys = tuple(float(time) for time in range(300) if not 100 <= time < 110)
    assert not key_frames_suffice(film(300, keys))


def test_about_a_third_is_read_around_the_best_key_frames() -> None:
    times = np.arange(0.0, 300, 2)
    similarities = np.where(abs(times - 100) < 5, 1.0, 0.0)[:, None]
    keys = rank.Samples.none(1).with_more(times, similarities, np.zeros((len(times), 512)))
    wanted = rank.Wanted(length=5.0, count=1, cuts=rank.Cuts.AVOID, weights=(1.0,))
    spans = spans_worth_reading(keys, film(300), wanted)
    assert any(start <= 95 and end >= 105 for start, end in spans)
    assert 0 < sum(end - start for start, end in spans) <= 150
