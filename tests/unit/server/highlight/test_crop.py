"""Where a crop lies: around what was searched for, and within the frame."""

from typing import Any

import numpy as np
import pytest

from framehaul_pipeline.highlight.messages import FilmInfo
from framehaul_pipeline.link.messages import Embedded
from framehaul_server.highlight.crop import cropped
from framehaul_server.highlight.scan import FilmSamples


def film(width: int, height: int) -> FilmInfo:
    return FilmInfo(
        duration=1, width=width, height=height, rate_numerator=10, rate_denominator=1, seekable=True, key_times=()
    )


@pytest.mark.parametrize(
    ("crop", "place", "expected"),
    [
        (None, (0.1, 0.9), (160, 90, 0, 0)),
        ((9, 16), (0.5, 0.5), (50, 90, 55, 0)),
        ((9, 16), (0.25, 0.9), (50, 90, 15, 0)),
        ((9, 16), (0.0, 0.5), (50, 90, 0, 0)),
        ((9, 16), (1.0, 0.5), (50, 90, 110, 0)),
        ((4, 1), (0.3, 0.75), (160, 40, 0, 48)),
    ],
)
def test_a_crop_is_around_its_place_and_within_the_frame(
    crop: tuple[int, int] | None, place: tuple[float, float], expected: tuple[int, int, int, int]
) -> None:
    assert cropped(film(160, 90), crop, place) == expected


@pytest.mark.parametrize(
    ("crop", "place", "look", "expected"),
    [
        ((9, 16), None, 0.8, (103, 0)),  # around what is looked at
        ((9, 16), None, 0.0, (0, 0)),  # and within the frame
        ((9, 16), (0.5, 0.5), 0.55, (63, 0)),  # what was found is in it too
        ((9, 16), (0.5, 0.5), 0.9, (68, 0)),  # if need be in the middle half alone
        ((9, 16), (0.5, 0.5), 0.1, (42, 0)),
        ((9, 16), (0.0, 0.5), 0.9, (0, 0)),
        ((9, 16), (1.0, 0.5), 0.1, (110, 0)),
        ((4, 1), None, 0.25, (0, 2)),
        (None, (0.5, 0.5), 0.1, (0, 0)),
    ],
)
def test_a_crop_holds_what_people_look_at(
    crop: tuple[int, int] | None, place: tuple[float, float] | None, look: float, expected: tuple[int, int]
) -> None:
    looked_at = np.zeros((216, 384))
    across, down = round(look * 384), round(look * 216)
    looked_at[max(0, down - 4) : down + 4, max(0, across - 4) : across + 4] = 1
    assert cropped(film(160, 90), crop, place, looked_at)[2:] == pytest.approx(expected, abs=1)


def test_where_nobody_looks_a_crop_is_around_its_place() -> None:
    assert cropped(film(160, 90), (9, 16), (0.25, 0.5), np.zeros((2, 2))) == (50, 90, 15, 0)
    assert cropped(film(160, 90), (9, 16), None) == (50, 90, 55, 0)


@pytest.mark.asyncio
async def test_the_place_is_that_of_the_more_alike_half() -> None:
    samples = FilmSamples(1, 8, 4)
    samples._times = [0.0, 1.0, 2.0, 3.0, 9.0]
    alike, lefts, tops = (0.9, 0.8, 0.1, 0.2, 1.0), (0.2, 0.3, 0.9, 0.9, 0.6), (0.5, 0.7, 0.1, 0.1, 0.4)
    samples.on_embedded(Embedded(query=1, first=0, similarities=(alike,), places=(lefts, tops), device_ns=1))
    found: Any = samples.place(0.0, 4.0)
    assert found == pytest.approx((0.25, 0.6))
    assert samples.place(8.0, 10.0) == pytest.approx((0.6, 0.4))
    assert samples.place(4.0, 8.0) == (0.5, 0.5)
