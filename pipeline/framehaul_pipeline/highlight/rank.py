"""Which seconds of a film show what is asked for; pure, numpy alone.

Samples of the film come in any order and as densely as one likes: each counts for the time until the next one. So
there is one way to look closer, be it at an excerpt or at a cut: add samples there, and rank again.

Times are seconds from the film's first frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

CUT_PENALTY: Final = 0.5
"""Of the scores' range, for each cut in an excerpt."""
MOST_OVERLAP: Final = 0.3
"""Two excerpts' intersection over union stays below."""
WEAK: Final = 1.0
"""Standard deviations above the film's median; what is less stands out little."""
_CUT_AT_LEAST: Final = 0.35
"""Two histograms' distance, of 0 to 1, from which a cut may lie between them,"""
_CUT_OVER_MEDIAN: Final = 3.0
"""if it is so many times the film's median distance too,"""
_CUT_SURELY: Final = 0.7
"""and always from here: a film of nothing but cuts has them for its median."""
_LEVELS: Final = 8
"""Of each colour, in a histogram."""
_HOLE: Final = 1.5
"""Of the interval between samples; where none came for longer, some are still to come."""
_SAME_S: Final = 1e-6
"""Moments closer than this are one,"""
_SAME_SCORE: Final = 1e-9
"""and so are scores."""


class Cuts(StrEnum):
    """Whether an excerpt may contain a cut."""

    ALLOW = "allow"
    AVOID = "avoid"
    """A cut costs half of the scores' range."""
    NEVER = "never"
    """None, unless no shot is long enough; then as few as can be."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Some seconds of the film.

    Attributes:
        start: of its first frame.
        end: of the first frame after it.
        score: mean over it, in standard deviations of the film's scores.
        weak: that is less than one above the film's median.
    """

    start: float
    end: float
    score: float
    weak: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """A film's scores over time; each sample's holds until the next one, the first one's from the film's start.

    Attributes:
        times: `[N]`, ascending, N at least 1.
        scores: `[N]`.
        duration: of the film.
    """

    times: Floats
    scores: Floats
    duration: float

    @property
    def edges(self) -> Floats:
        """`[N + 1]`: where one sample's time ends and the next one's begins."""
        edges: Floats = np.concatenate(([0.0], self.times[1:], [max(self.duration, float(self.times[-1]))]))
        return edges

    @property
    def shares(self) -> Floats:
        """`[N]`: of the film's time, each sample's."""
        widths = np.diff(self.edges)
        total = widths.sum()
        shares: Floats = widths / total if total > 0 else np.full(len(widths), 1 / len(widths))
        return shares

    def standardized(self) -> Curve:
        """The same in standard deviations from the film's mean; all zero if nothing differs."""
        shares = self.shares
        centred = self.scores - shares @ self.scores
        deviation = float(np.sqrt(shares @ centred**2))
        # What is left of equal numbers by rounding is no difference.
        if deviation <= 1e-9 * max(1.0, float(np.abs(self.scores).max())):
            return Curve(self.times, np.zeros(len(self.times)), self.duration)
        return Curve(self.times, centred / deviation, self.duration)

    def median(self) -> float:
        """The score below which it is for half of the time."""
        order = np.argsort(self.scores, kind="stable")
        reached = np.cumsum(self.shares[order])
        return float(self.scores[order][np.searchsorted(reached, 0.5 - _SAME_S)])

    def means(self, starts: Floats, length: float) -> Floats:
        """The mean over `length` from each of `starts`, by the sums up to each moment."""
        edges = self.edges
        sums = np.concatenate(([0.0], np.cumsum(np.diff(edges) * self.scores)))
        means: Floats = (np.interp(starts + length, edges, sums) - np.interp(starts, edges, sums)) / length
        return means


@dataclass(frozen=True, slots=True)
class Samples:
    """What is known of a film so far, by time.

    Attributes:
        times: `[N]`, ascending, each once.
        similarities: `[N, K]`: to the pictures and to the text, or to either; each kind in its own unit.
        histograms: `[N, B]`, as `histogram` makes them.
    """

    times: Floats
    similarities: Floats
    histograms: Floats

    @classmethod
    def none(cls, kinds: int) -> Samples:
        """No samples yet, of so many kinds of similarity."""
        return cls(np.zeros(0), np.zeros((0, kinds)), np.zeros((0, _LEVELS**3)))

    def __len__(self) -> int:
        """Count them."""
        return len(self.times)

    def with_more(self, times: Floats, similarities: Floats, histograms: Floats) -> Samples:
        """These and more, in any order; of two at one moment the first stays."""
        every = np.concatenate((self.times, times))
        order = np.argsort(every, kind="stable")
        order = order[np.diff(every[order], prepend=-np.inf) > _SAME_S]
        return Samples(
            every[order],
            np.concatenate((self.similarities, similarities))[order],
            np.concatenate((self.histograms, histograms))[order],
        )

    def curve(self, duration: float, weights: Sequence[float]) -> Curve:
        """The film's score over time: each kind in its own standard deviations, then their weighted sum in its own."""
        kinds = (Curve(self.times, each, duration).standardized().scores for each in self.similarities.T)
        total = np.sum([weight * scores for weight, scores in zip(weights, kinds, strict=True)], axis=0)
        return Curve(self.times, total, duration).standardized()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What excerpts are asked for.

    Attributes:
        length: of each, as `excerpt_length` says.
        count: how many at most.
        cuts: whether they may contain any.
        weights: of each kind of similarity.
    """

    length: float
    count: int
    cuts: Cuts
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A film's curve, its cuts, and its best excerpts, best first."""

    curve: Curve
    cuts: Floats
    excerpts: list[Excerpt]


def rank(samples: Samples, duration: float, wanted: Wanted) -> Ranking:
    """Rank a film of which at least one sample is known."""
    curve = samples.curve(duration, wanted.weights)
    cuts = find_cuts(samples.times, samples.histograms)
    starts = _starts(curve, wanted.length, cuts)
    return Ranking(curve, cuts, _best(curve, starts, cuts, wanted))


def best_so_far(samples: Samples, duration: float, wanted: Wanted, interval: float) -> Excerpt | None:
    """The best excerpt among those of which all samples, one for each `interval`, have come; None: there is none."""
    if len(samples) == 0:
        return None
    curve = samples.curve(duration, wanted.weights)
    cuts = find_cuts(samples.times, samples.histograms)
    starts = _starts(curve, wanted.length, cuts)
    known = np.concatenate(([-interval / 2], samples.times, [max(duration, samples.times[-1]) + interval / 2]))
    gaps = np.diff(known)
    missing = np.concatenate(([0.0], np.cumsum(np.where(gaps > _HOLE * interval, gaps, 0.0))))
    missed = np.interp(starts + wanted.length, known, missing) - np.interp(starts, known, missing)
    found = _best(curve, starts[missed <= _SAME_S], cuts, wanted)
    return found[0] if found else None


def spans_to_look_closer(excerpts: Sequence[Excerpt], margin: float, duration: float) -> list[tuple[float, float]]:
    """Where dense samples would settle the excerpts' ends: each with `margin` around it, joined where they meet."""
    spans: list[tuple[float, float]] = []
    for start, end in sorted((max(0.0, each.start - margin), min(duration, each.end + margin)) for each in excerpts):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return spans


def excerpt_length(seconds: float, rate: Fraction, duration: float) -> float:
    """The length of an excerpt of `seconds` in whole frames, one at least; at most the film's."""
    return min(float(max(1, round(seconds * rate)) / rate), duration)


def histogram(frame: npt.NDArray[np.uint8]) -> Floats:
    """The colours of a frame `[H, W, 3]`: the share of each of 512."""
    levels = (frame >> 5).astype(np.intp)
    colours = (levels[..., 0] * _LEVELS + levels[..., 1]) * _LEVELS + levels[..., 2]
    counts = np.bincount(colours.ravel(), minlength=_LEVELS**3)
    shares: Floats = (counts / counts.sum()).astype(np.float32)
    return shares


def find_cuts(times: Floats, histograms: Floats) -> Floats:
    """Where the colours change at once: the moment of the first sample after each cut.

    It is the cut's own moment if both frames beside it are samples.
    """
    distances = np.abs(np.diff(histograms, axis=0)).sum(axis=1) / 2
    if len(distances) == 0:
        return np.zeros(0)
    least = min(max(_CUT_AT_LEAST, _CUT_OVER_MEDIAN * float(np.median(distances))), _CUT_SURELY)
    found: Floats = times[1:][distances >= least]
    return found


def _starts(curve: Curve, length: float, cuts: Floats) -> Floats:
    """Where excerpts may start: at samples, at a cut, such that they end at one, and at the film's two ends."""
    last = max(curve.duration - length, 0.0)
    starts = np.concatenate((curve.times, cuts, cuts - length, [0.0, last]))
    starts = np.unique(starts[(starts >= 0) & (starts <= last)])
    return starts[np.diff(starts, prepend=-np.inf) > _SAME_S]


def _best(curve: Curve, starts: Floats, cuts: Floats, wanted: Wanted) -> list[Excerpt]:
    """The best excerpts, best first, that overlap little; of equal ones the earliest."""
    length = wanted.length
    means = curve.means(starts, length)
    inside = np.searchsorted(cuts, starts + length - _SAME_S) - np.searchsorted(cuts, starts + _SAME_S)
    rated = means.copy()
    if wanted.cuts is Cuts.AVOID:
        rated -= CUT_PENALTY * np.ptp(curve.scores) * inside
    elif wanted.cuts is Cuts.NEVER and len(inside):
        rated[inside > inside.min()] = -np.inf
    median = curve.median()
    chosen: list[Excerpt] = []
    while len(chosen) < wanted.count and np.isfinite(rated).any():
        index = int(np.argmax(rated >= rated.max() - _SAME_SCORE))
        start, score = float(starts[index]), float(means[index])
        chosen.append(Excerpt(start, start + length, score, score - median < WEAK))
        apart = np.abs(starts - start)
        rated[(length - apart) / (length + apart) >= MOST_OVERLAP] = -np.inf
    return chosen
