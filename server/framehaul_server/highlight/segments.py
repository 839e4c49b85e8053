"""Which parts of a film are read, by whom, and whether key frames tell enough. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Final

from framehaul_pipeline.highlight import rank
from framehaul_pipeline.highlight.messages import FilmInfo

LONG_FILM_S: Final = 120.0
"""From here on, a film's key frames are looked at first."""
MOST_BETWEEN_KEYS_S: Final = 5.0
_LEAST_SEGMENT_S: Final = 10.0
_SEGMENTS_A_READER: Final = 2
_WORTH_READING: Final = 1 / 3
"""Of a long film."""


def split(info: FilmInfo, num_readers: int) -> list[tuple[float, float]]:
    """The film in parts that begin with key frames, as far as those are known; one if that can't be."""
    most = min(_SEGMENTS_A_READER * num_readers, int(info.duration / _LEAST_SEGMENT_S))
    if not info.seekable or most < 2:
        return [(0.0, math.inf)]
    edges = {0.0}
    for index in range(1, most):
        wanted = index * info.duration / most
        edges.add(min(info.key_times, key=lambda time: abs(time - wanted)) if info.key_times else wanted)
    starts = sorted(edges)
    return list(zip(starts, [*starts[1:], math.inf], strict=True))


def key_frames_suffice(info: FilmInfo) -> bool:
    """Whether a long film's key frames are close enough to tell where to look."""
    if info.duration < LONG_FILM_S or len(info.key_times) < info.duration / MOST_BETWEEN_KEYS_S:
        return False
    times = [*sorted(info.key_times), info.duration]
    return max(after - before for before, after in pairwise(times)) <= MOST_BETWEEN_KEYS_S


def spans_worth_reading(keys: rank.Samples, info: FilmInfo, wanted: rank.Wanted) -> list[tuple[float, float]]:
    """The best third of a film, by its key frames, and a key frame's distance around each part of it."""
    length = wanted.length + 2 * MOST_BETWEEN_KEYS_S
    count = max(wanted.count, int(info.duration * _WORTH_READING / length))
    best = rank.rank(keys, info.duration, replace(wanted, count=count, cuts=rank.Cuts.ALLOW)).excerpts
    return rank.spans_to_look_closer(best, MOST_BETWEEN_KEYS_S, info.duration)
