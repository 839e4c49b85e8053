"""Which frames of a film maps of where people look are made of. Pure.

A map is made of its own frame and those before it. Too few stand before a film's first frames: their maps are made of
the frames after them, in the order that runs backwards, as the network's authors do it. Maps of neighbouring frames
share most of theirs, which are read once for all maps of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from framehaul_pipeline.models.saliency import WINDOW_FRAMES, num_windows


class Run(NamedTuple):
    """Consecutive frames, and the maps that are made of them.

    Attributes:
        begin: the first frame.
        end: the frame after the last one.
        maps: the frames that maps are of, `WINDOW_FRAMES - 1` from the run's end or, backwards, from its begin on.
    """

    begin: int
    end: int
    maps: range


def is_backwards(frame: int) -> bool:
    """Whether this frame's map is made of the frames after it."""
    return frame < WINDOW_FRAMES - 1


def runs(maps: range, most_frames: int) -> Iterator[Run]:
    """Cut maps, of frames an even number apart, into runs of at most so many frames, `WINDOW_FRAMES` or more."""
    most = num_windows(most_frames, maps.step)
    while maps:
        backwards = is_backwards(maps[0])
        part = maps[:most]
        if backwards:
            part = range(part.start, min(part.stop, WINDOW_FRAMES - 1), maps.step)
        before, after = (0, WINDOW_FRAMES) if backwards else (WINDOW_FRAMES - 1, 1)
        yield Run(part[0] - before, part[-1] + after, part)
        maps = maps[len(part) :]
