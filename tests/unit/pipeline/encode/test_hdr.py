"""PQ and HLG on an SDR screen."""

import numpy as np
import pytest

from framehaul_pipeline.encode.hdr import FULL_SCALE, HLG, PQ, to_bt709

REFERENCE_WHITE = (573 - 64) / 876
"""PQ's code of 203 cd/m2 in 10 bits, limited range."""


def grey(signal: float, transfer: int) -> int:
    level = round(signal * FULL_SCALE)
    pixel = to_bt709(np.full((1, 1, 3), level, np.uint16), transfer, 9)[0, 0]
    assert np.ptp(pixel) <= 1
    return int(pixel[1])


@pytest.mark.parametrize(
    ("signal", "transfer", "expected"),
    [
        (0, PQ, 0),
        (REFERENCE_WHITE, PQ, 244),
        (0.38, PQ, 108),  # 18 % grey, 26 cd/m2: ITU-R BT.2408-7, table 1
        (0.7518, PQ, 255),  # 1000 cd/m2
        (1, PQ, 255),
        (0, HLG, 0),
        (0.75, HLG, 244),  # reference white: the same table
        (0.38, HLG, 108),
        (1, HLG, 255),
    ],
)
def test_greys_are_where_graphics_have_them(signal: float, transfer: int, expected: int) -> None:
    assert abs(grey(signal, transfer) - expected) <= 2


def test_primaries_of_bt709_are_left_alone() -> None:
    red = np.array([[[round(0.38 * FULL_SCALE), 0, 0]]], np.uint16)
    assert to_bt709(red, PQ, 1)[0, 0].tolist() == [to_bt709(red, PQ, 1)[0, 0, 0], 0, 0]
    assert to_bt709(red, PQ, 9)[0, 0, 0] > to_bt709(red, PQ, 1)[0, 0, 0]
