"""Which frames maps are made of, and that a film's reader finds them."""

import os
from pathlib import Path

import numpy as np
import pytest

from framehaul_pipeline.highlight.messages import ReadRuns
from framehaul_pipeline.highlight.runs import is_backwards, runs
from framehaul_pipeline.highlight.sample import Film, OwnPosition
from framehaul_pipeline.models.saliency import WINDOW_FRAMES, num_windows
from tests.support.films import write_film

RATE = 25


@pytest.mark.parametrize("most", [WINDOW_FRAMES, 39])
@pytest.mark.parametrize("maps", [range(100), range(3), range(20, 60, 3), range(12, 160, 30), range(31, 32), range(0)])
def test_each_map_has_its_window(maps: range, most: int) -> None:
    """In order; it ends with the map's frame or, where too few are before that, begins with it."""
    told: list[int] = []
    for begin, end, part in runs(maps, most):
        assert end - begin <= most
        assert num_windows(end - begin, maps.step) == len(part)
        for at, frame in enumerate(part):
            window = range(begin + at * maps.step, begin + at * maps.step + WINDOW_FRAMES)
            assert frame == window[0 if is_backwards(frame) else -1]
            assert window[0] >= 0
        told += part
    assert told == list(maps)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames, each as light as its number says; the left half is dark."""
    pixels = np.zeros((60, 36, 64, 3), np.uint8)
    pixels[:, :, 32:] = 10 + 4 * np.arange(60)[:, None, None, None]
    return write_film(tmp_path_factory.mktemp("film") / "a.mkv", pixels, rate=RATE, gop=12)


def levels(path: Path, **job: int) -> list[list[int]]:
    """The numbers of the frames that each run has."""
    fd = os.open(path, os.O_RDONLY)
    try:
        film = Film(OwnPosition(fd), "it", max_pixels=1 << 20, max_seconds=60)
        wanted = ReadRuns(
            **{"rate_numerator": RATE, "rate_denominator": 1, "most_frames": 39, "width": 96, "height": 64, **job}
        )
        found = []
        for _, frames in film.runs(wanted):
            assert all(frame.shape == (64, 96, 3) for frame in frames)
            assert max(frame[:, :32].max() for frame in frames) < 16
            found.append([round((float(frame[:, 64:].mean()) - 8.5) / 4) for frame in frames])
        return found
    finally:
        os.close(fd)


def test_a_films_frames_are_found(film: Path) -> None:
    """From its beginning on, and from elsewhere, after a seek; by time, in milliseconds as Matroska has them."""
    assert levels(film, first=28, num_maps=5, every=1) == [[*range(28, 60), 59, 59], list(range(33))]
    assert levels(film, first=50, num_maps=3, every=4) == [list(range(19, 55)), list(range(27, 59))]


def test_after_the_last_frame_it_stays(film: Path) -> None:
    """Films are shorter than they say, and may have less frames than a window."""
    assert levels(film, first=70, num_maps=1, every=1) == [[*range(39, 60), *[59] * 11]]


def test_at_half_the_rate_each_second_frame_is_shown(film: Path) -> None:
    (first,) = levels(film, first=0, num_maps=1, every=1, rate_numerator=RATE, rate_denominator=2)
    assert first[:4] == [1, 3, 5, 7]
    assert first[-3:] == [59] * 3
