"""Every source of training material is cleared, pinned, named in NOTICE, and kept apart from what judges the model."""

from itertools import pairwise
from pathlib import Path

import pytest

from training.film import WINDOW_FRAMES, _windows
from training.sources import CC0, CC_BY_2_0, CC_BY_3_0, CC_BY_4_0, FILM, PACKAGES, PHOTOS, PUBLIC_DOMAIN

NOTICE = Path(__file__).parents[3] / "NOTICE"
CLEARED = {CC0, CC_BY_2_0, CC_BY_3_0, CC_BY_4_0, PUBLIC_DOMAIN}


def test_every_licence_allows_shipping_without_share_alike() -> None:
    assert {photo.licence for photo in PHOTOS} | {FILM.licence} <= CLEARED


def test_every_author_is_named_in_the_notice() -> None:
    text = " ".join(NOTICE.read_text().split())
    for author in {photo.author for photo in PHOTOS} | {FILM.author}:
        assert author in text, author


def test_sources_come_from_known_packages_and_have_names_of_their_own() -> None:
    assert {photo.package for photo in PHOTOS} | {FILM.package} == set(PACKAGES)
    assert len({photo.name for photo in PHOTOS}) == len(PHOTOS)


def test_something_is_held_out() -> None:
    assert sum(photo.held_out for photo in PHOTOS) == 2
    assert sum(end - start for start, end in FILM.held_out_s) > 60


@pytest.mark.parametrize("num_frames", [1, 33, 34, 80, 200, 500])
def test_windows_keep_off_the_cuts_and_off_each_other(num_frames: int) -> None:
    firsts = _windows(num_frames)
    assert bool(firsts) == (num_frames >= WINDOW_FRAMES + 2)
    for first, following in pairwise([*firsts, num_frames - 1]):
        assert first >= 1
        assert first + WINDOW_FRAMES <= following
