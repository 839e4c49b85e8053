"""Ranking: whatever the scores and wherever the samples, excerpts are the best ones, whole, and apart."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from framehaul_pipeline.highlight.rank import (
    CUT_PENALTY,
    MOST_OVERLAP,
    WEAK,
    Cuts,
    Excerpt,
    Samples,
    Wanted,
    best_so_far,
    rank,
)

COLOURS = np.eye(512)
TICK = 0.125
"""All times are multiples of it, so that sums are exact enough to compare."""


@dataclass(frozen=True)
class Film:
    samples: Samples
    duration: float

    def mean(self, start: float, end: float) -> float:
        """The score from one moment to another, sample by sample."""
        curve, total = self.samples.curve(self.duration, (1.0,)), 0.0
        for index, score in enumerate(curve.scores):
            since = curve.times[index] if index else 0.0
            until = curve.times[index + 1] if index + 1 < len(curve.times) else self.duration
            total += score * max(0.0, min(until, end) - max(since, start))
        return float(total / (end - start))


@st.composite
def films(draw: st.DrawFn) -> Film:
    """Of any shots; samples at any distances."""
    ticks = sorted(draw(st.sets(st.integers(0, 160), min_size=2, max_size=40)))
    scores = draw(st.lists(st.integers(-5, 5), min_size=len(ticks), max_size=len(ticks)))
    shots = np.cumsum(draw(st.lists(st.booleans(), min_size=len(ticks), max_size=len(ticks))))
    times = np.array(ticks) * TICK
    samples = Samples.none(1).with_more(times, np.array(scores, float)[:, None], COLOURS[shots])
    return Film(samples, float(times[-1]) + TICK * draw(st.integers(1, 8)))


@st.composite
def wishes(draw: st.DrawFn) -> Wanted:
    length = TICK * draw(st.integers(1, 80))
    return Wanted(length=length, count=draw(st.integers(1, 20)), cuts=draw(st.sampled_from(Cuts)), weights=(1.0,))


def fitted(wanted: Wanted, film: Film) -> Wanted:
    return Wanted(length=min(wanted.length, film.duration), count=wanted.count, cuts=wanted.cuts, weights=(1.0,))


def overlap(one: Excerpt, other: Excerpt) -> float:
    both = max(0.0, min(one.end, other.end) - max(one.start, other.start))
    return both / (one.end - one.start + other.end - other.start - both)


@given(films(), wishes())
def test_excerpts_are_whole_and_apart_and_their_scores_are_their_means(film: Film, wanted: Wanted) -> None:
    """Each lies in the film, is as long as asked for, and says truly whether it is weak."""
    wanted = fitted(wanted, film)
    ranking = rank(film.samples, film.duration, wanted)
    assert 1 <= len(ranking.excerpts) <= wanted.count
    for number, each in enumerate(ranking.excerpts):
        assert -1e-6 <= each.start <= each.end <= film.duration + 1e-6
        assert abs(each.end - each.start - wanted.length) < 1e-6
        assert abs(film.mean(each.start, each.end) - each.score) < 1e-6
        assert each.weak == (each.score - ranking.curve.median() < WEAK)
        assert all(overlap(each, other) < MOST_OVERLAP + 1e-6 for other in ranking.excerpts[:number])


@given(films(), wishes())
def test_no_other_excerpt_is_better(film: Film, wanted: Wanted) -> None:
    """Tried one by one, at every sample and cut, with the cuts' cost as it was asked for."""
    wanted = fitted(wanted, film)
    ranking = rank(film.samples, film.duration, wanted)
    best, curve = ranking.excerpts[0], ranking.curve

    def inside(start: float) -> int:
        return sum(start + 1e-6 < cut < start + wanted.length - 1e-6 for cut in ranking.cuts)

    def rated(start: float) -> float:
        score = float(curve.means(np.array([start]), wanted.length)[0])
        return score - (CUT_PENALTY * float(np.ptp(curve.scores)) * inside(start) if wanted.cuts is Cuts.AVOID else 0)

    ends = [*curve.times, *ranking.cuts, *(ranking.cuts - wanted.length), film.duration - wanted.length]
    starts = [start for start in ends if 0 <= start <= film.duration - wanted.length]
    if wanted.cuts is Cuts.NEVER:
        fewest = min(map(inside, starts), default=0)
        assert inside(best.start) <= fewest
        starts = [start for start in starts if inside(start) == fewest]
    assert all(rated(start) <= rated(best.start) + 1e-6 for start in starts)


@given(films(), wishes(), st.floats(0.1, 10), st.floats(-10, 10), st.randoms(use_true_random=False))
def test_order_and_unit_of_samples_change_nothing(
    film: Film, wanted: Wanted, factor: float, offset: float, random: object
) -> None:
    """They come in parts, from several readers, twice perhaps, and models differ in what they call alike."""
    wanted = fitted(wanted, film)
    samples = film.samples
    order = list(range(len(samples))) * 2
    random.shuffle(order)  # type: ignore[attr-defined]
    again = Samples.none(1)
    for start in range(0, len(order), 7):
        part = order[start : start + 7]
        again = again.with_more(
            samples.times[part], samples.similarities[part] * factor + offset, samples.histograms[part]
        )
    one, other = (rank(each, film.duration, wanted) for each in (samples, again))
    np.testing.assert_allclose(one.curve.scores, other.curve.scores, atol=1e-6)
    np.testing.assert_array_equal(one.cuts, other.cuts)
    assert abs(one.excerpts[0].score - other.excerpts[0].score) < 1e-6 or wanted.cuts is not Cuts.ALLOW


@given(films(), wishes(), st.sets(st.integers(0, 200), max_size=60))
def test_more_samples_of_the_same_change_nothing(film: Film, wanted: Wanted, ticks: set[int]) -> None:
    """Looking closer at a place doesn't make it count for more: a curve is over time, not over samples."""
    wanted = fitted(wanted, film)
    samples = film.samples
    more = np.array(sorted(tick * TICK for tick in ticks if samples.times[0] <= tick * TICK < film.duration))
    held = np.searchsorted(samples.times, more, side="right") - 1
    finer = samples.with_more(more, samples.similarities[held], samples.histograms[held])
    one, other = (each.curve(film.duration, (1.0,)) for each in (samples, finer))
    starts = np.arange(0.0, film.duration - wanted.length + TICK / 2, TICK)
    np.testing.assert_allclose(one.means(starts, wanted.length), other.means(starts, wanted.length), atol=1e-6)
    assert abs(one.median() - other.median()) < 1e-6


@given(films(), wishes(), st.data())
def test_what_is_best_so_far_is_known_in_full(film: Film, wanted: Wanted, data: st.DataObject) -> None:
    """Between any two moments of it that are further apart than samples are, one has come."""
    wanted = fitted(wanted, film)
    every = np.arange(0, film.duration, 0.5)
    come = sorted(data.draw(st.sets(st.integers(0, len(every) - 1), min_size=1)))
    samples = Samples.none(1).with_more(every[come], np.cos(every[come])[:, None], COLOURS[[0] * len(come)])
    best = best_so_far(samples, film.duration, wanted, 0.5)
    if best is not None:
        needed = [at for at in every if best.start + 0.01 <= at <= best.end - 0.01]
        assert all(np.abs(samples.times - at).min() < 0.3 for at in needed)
    if len(come) == len(every):
        assert best == rank(samples, film.duration, wanted).excerpts[0]
