from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from framehaul_pipeline.highlight.rank import (
    Cuts,
    Excerpt,
    Samples,
    Wanted,
    best_so_far,
    excerpt_length,
    find_cuts,
    histogram,
    rank,
    spans_to_look_closer,
)

COLOURS = np.eye(512)
"""Histograms of frames of one colour each."""


def film(scores: Sequence[float], shots: list[int] | None = None, interval: float = 0.5) -> Samples:
    """Samples from the start, one for each interval; without shots all are of one."""
    shots = [0] * len(scores) if shots is None else shots
    times = np.arange(len(scores)) * interval
    return Samples.none(1).with_more(times, np.array(scores)[:, None], COLOURS[shots])


def wanted(length: float = 2.0, count: int = 1, cuts: Cuts = Cuts.AVOID) -> Wanted:
    return Wanted(length=length, count=count, cuts=cuts, weights=(1.0,))


def test_the_excerpt_of_the_highest_mean_is_best() -> None:
    """It starts at a sample, and says how far it stands out."""
    found = rank(film([0] * 20 + [1] * 4 + [0] * 16), 20.0, wanted()).excerpts[0]
    assert (found.start, found.end, found.weak) == (10.0, 12.0, False)
    assert found.score == pytest.approx(3.0)


def test_a_film_in_which_nothing_differs_has_a_weak_excerpt_at_its_start() -> None:
    """There is no division by its deviation, which is none."""
    assert rank(film([0.3] * 40), 20.0, wanted()).excerpts == [Excerpt(0.0, 2.0, 0.0, True)]


def test_a_film_shorter_than_the_excerpt_is_the_excerpt() -> None:
    length = excerpt_length(5.0, Fraction(30), 3.0)
    found = rank(film([0, 1, 2, 1, 0, 0]), 3.0, wanted(length)).excerpts
    assert [(each.start, each.end) for each in found] == [(0.0, 3.0)]


def test_a_film_of_one_sample_has_an_excerpt() -> None:
    """Though its one frame may take no time at all."""
    one = film([1.0])
    assert rank(one, 0.04, wanted(0.04)).excerpts == [Excerpt(0.0, 0.04, 0.0, True)]
    assert rank(one, 0.0, wanted(0.04)).curve.shares.tolist() == [1.0]


@pytest.mark.parametrize(
    ("cuts", "start"), [(Cuts.ALLOW, 4.0), (Cuts.AVOID, 5.0), (Cuts.NEVER, 5.0)], ids=["allow", "avoid", "never"]
)
def test_a_cut_in_an_excerpt_counts_as_asked_for(cuts: Cuts, start: float) -> None:
    """The best two seconds begin before the cut at 5 s; those after it are nearly as good."""
    scores = [0.0] * 8 + [1.0, 1.0, 0.9, 0.9, 0.5, 0.5] + [0.0] * 6
    ranking = rank(film(scores, [1] * 10 + [2] * 10), 10.0, wanted(cuts=cuts))
    assert ranking.cuts.tolist() == [5.0]
    assert ranking.excerpts[0].start == start


def test_never_means_as_few_cuts_as_can_be_if_no_shot_is_long_enough() -> None:
    """Shots of 1.5 s hold no 2 s, but with one cut there are some."""
    shots = [index // 3 for index in range(24)]
    ranking = rank(film([0.0] * 9 + [1.0] * 5 + [0.0] * 10, shots), 12.0, wanted(cuts=Cuts.NEVER))
    found = ranking.excerpts[0]
    assert sum(found.start < cut < found.end for cut in ranking.cuts) == 1


def test_excerpts_may_end_at_a_cut_between_samples() -> None:
    """Dense samples around it say where it is, and then an excerpt of the whole shot fits exactly."""
    samples = film([0.0] * 10 + [1.0] * 4 + [0.0] * 10, [1] * 10 + [2] * 4 + [3] * 10)
    around = np.array([4.8, 4.9, 6.7, 6.8, 6.9])
    samples = samples.with_more(around, np.array([[0.0], [1], [1], [1], [0]]), COLOURS[[1, 2, 2, 2, 3]])
    ranking = rank(samples, 12.0, wanted())
    assert ranking.cuts.tolist() == [4.9, 6.9]
    assert ranking.excerpts[0].start == pytest.approx(4.9)


def test_several_excerpts_overlap_little() -> None:
    """The second is not the first, moved by a sample; there are no more than fit."""
    scores = [0.0] * 10 + [1.0] * 6 + [0.0] * 10 + [0.8] * 6 + [0.0] * 8
    found = rank(film(scores), 20.0, wanted(count=2)).excerpts
    assert [5.0 <= found[0].start <= 6.0, 13.0 <= found[1].start <= 14.0] == [True, True]
    assert len(rank(film(scores), 20.0, wanted(count=20, length=15.0)).excerpts) == 1


def test_the_best_so_far_is_of_what_is_known() -> None:
    """Samples come from several places at once; an excerpt whose middle is missing doesn't count."""
    whole = film([0.0] * 10 + [1.0] * 4 + [0.0] * 10)
    some = np.array([0, 1, 2, 3, 4, 5, 10, 11, 13, 14, 20, 21, 22, 23])
    part = Samples(whole.times[some], whole.similarities[some], whole.histograms[some])
    found = best_so_far(part, 12.0, wanted(), 0.5)
    assert found is not None
    assert found.end <= 3.0 or found.start >= 9.5
    assert best_so_far(whole, 12.0, wanted(), 0.5) == rank(whole, 12.0, wanted()).excerpts[0]
    assert best_so_far(Samples.none(1), 12.0, wanted(), 0.5) is None
    lone = Samples(whole.times[9:10], whole.similarities[9:10], whole.histograms[9:10])
    assert best_so_far(lone, 12.0, wanted(), 0.5) is None
    assert best_so_far(lone, 12.0, wanted(cuts=Cuts.NEVER), 0.5) is None


def test_looking_closer_joins_what_meets() -> None:
    excerpts = [Excerpt(10, 15, 2, False), Excerpt(16, 21, 1, False), Excerpt(0.5, 5.5, 1, False)]
    assert spans_to_look_closer(excerpts, 1.0, 21.5) == [(0.0, 6.5), (9.0, 21.5)]


@pytest.mark.parametrize(
    ("seconds", "rate", "duration", "length"),
    [
        (5, Fraction(30), 60, 5.0),
        (5, Fraction(30000, 1001), 60, 150 * 1001 / 30000),
        (0.01, Fraction(25), 60, 0.04),
        (5, Fraction(30), 2, 2),
    ],
)
def test_an_excerpt_has_whole_frames(seconds: float, rate: Fraction, duration: float, length: float) -> None:
    """One at least, and no more than the film has."""
    assert excerpt_length(seconds, rate, duration) == pytest.approx(length)


def test_kinds_of_similarity_count_in_their_own_deviations() -> None:
    """However small the numbers of one are; a kind of which all are equal takes no part."""
    times, colours = np.arange(8) * 0.5, COLOURS[[0] * 8]
    image = np.array([0, 0, 0, 0, 100.0, 0, 0, 0])
    text = np.array([0.2, 0.2, 0.21, 0.2, 0.2, 0.2, 0.2, 0.2])
    samples = Samples.none(3).with_more(times, np.stack((image, text, np.ones(8)), axis=1), colours)
    curve = samples.curve(4.0, (1.0, 2.0, 5.0))
    assert int(np.argmax(curve.scores)) == 2


def test_a_histogram_is_shares_of_colours() -> None:
    frame = np.zeros((2, 4, 3), np.uint8)
    frame[0] = 255
    found = histogram(frame)
    assert (found[0], found[511], found.sum()) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize(
    ("distances", "cuts"),
    [
        ([], []),
        ([0.02, 0.03, 0.9, 0.02], [2]),  # one
        ([0.02, 0.01, 0.12, 0.02], []),  # a film without one
        ([0.2, 0.2, 0.21, 0.5, 0.2], []),  # the camera moves all the time
        ([0.8, 0.9, 0.85, 0.8], [0, 1, 2, 3]),  # nothing but cuts
    ],
)
def test_cuts_are_changes_of_colours_that_stand_out(distances: list[float], cuts: list[int]) -> None:
    """A cut is told by the first sample after it."""
    histograms = [COLOURS[0]]
    for number, distance in enumerate(distances):
        histograms.append((1 - distance) * histograms[-1] + distance * COLOURS[number + 1])
    times = np.arange(len(histograms)) * 0.5
    assert find_cuts(times, np.array(histograms)).tolist() == [(index + 1) * 0.5 for index in cuts]
