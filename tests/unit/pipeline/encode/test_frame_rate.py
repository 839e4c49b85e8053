"""Frames by their time stamps at a constant rate."""

from fractions import Fraction

import pytest

from framehaul_pipeline.encode.frame_rate import constant_rate


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ([0, 0.1, 0.2, 0.3], "abc"),
        ([0, 0.1, 0.4, 0.5], "abbbc"),
        ([0.2, 0.3, 0.4], "aaab"),  # a late start
        ([0, 0.01, 0.02, 0.03, 0.04, 0.4], "abee"),  # too many
        ([0, 0.16, 0.24, 0.3, 0.4], "aabcd"),  # late, and then in time again
        ([0, 0.13, 0.17, 0.33, 0.4], "abcd"),  # jitter
        ([-0.2, -0.1, 0.0, 0.1], "c"),  # before the excerpt
        ([-0.2, 0.3, 0.4], "aaab"),  # on the screen when it begins
        ([-0.2, 0.3], "aaa"),
        ([-0.2, -0.1], ""),
        ([0, 0.001], "a"),
        ([0], ""),
    ],
)
def test_frames_stand_where_their_times_are(times: list[float], shown: str) -> None:
    frames = zip("abcdefg", times, times[1:], strict=False)
    assert "".join(constant_rate(frames, Fraction(10))) == shown
