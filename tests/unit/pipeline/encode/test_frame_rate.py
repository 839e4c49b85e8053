"""Frames by their time stamps at a constant rate."""

from fractions import Fraction

import pytest

from framehaul_pipeline.encode.frame_rate import constant_rate


@pytest.mark.parametrize(
    ("frames", "shown"),
    [
        ([(0, 0.1), (0.1, 0.1), (0.2, 0.1)], "abc"),
        ([(0, 0.1), (0.1, 0.3), (0.4, 0.1)], "abbbc"),  # durations that are known
        ([(0, 0.1), (0.1, 0.1), (0.4, 0.1)], "abbcc"),  # and that aren't: at most a frame early
        ([(0.2, 0.1), (0.3, 0.1)], "aaab"),  # a late start
        ([(0, 0.1), (0.01, 0.1), (0.02, 0.1), (0.03, 0.1), (0.4, 0.1)], "abce"),  # too many
        ([(0, 0.1), (0.16, 0.1), (0.24, 0.1), (0.3, 0.1)], "abcd"),  # jitter
        ([(-0.2, 0.1), (-0.1, 0.1), (0.0, 0.1)], "c"),  # before the excerpt
        ([(-0.2, 0.5), (0.3, 0.1)], "aaab"),  # on the screen when it begins
        ([(-0.2, 0.5)], "aaa"),
        ([(-0.2, 0.1)], ""),
        ([], ""),
    ],
)
def test_frames_stand_where_their_times_are(frames: list[tuple[float, float]], shown: str) -> None:
    named = [(name, *times) for name, times in zip("abcdefg", frames, strict=False)]
    assert "".join(constant_rate(named, Fraction(10))) == shown
