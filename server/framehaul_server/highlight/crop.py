"""What a crop shows of a film's frames. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np

from framehaul_pipeline.highlight.messages import FilmInfo
from framehaul_pipeline.highlight.rank import Floats

_MIDDLE: Final = 0.5
"""Of a crop's side; what was found stays within."""
_AS_GOOD: Final = 0.98
"""Of the most that a crop can hold of where people look; among such crops, the one around its middle is taken."""


def cropped(
    info: FilmInfo,
    crop: tuple[int, int] | None,
    place: tuple[float, float] | None,
    looked_at: Floats | None = None,
) -> tuple[int, int, int, int]:
    """Width, height, left and top of what is sent of a frame: even, and the largest of the shape.

    Args:
        info: of the film.
        crop: the shape; None: whole frames.
        place: where what was searched for is, in 0..1 from the left and from the top; None: nobody knows.
        looked_at: `[H, W]` over the film's frame, how much people look there; None: nobody knows.
    """
    width, height = info.width, info.height
    if crop is not None:
        across, down = crop
        if width * down > height * across:
            width = height * across // down
        else:
            height = width * down // across
    width, height = max(2, width - width % 2), max(2, height - height % 2)
    sides = ((info.width, width), (info.height, height))
    places = place or (None, None)
    profiles = (None, None) if looked_at is None else (looked_at.sum(0), looked_at.sum(1))
    left, top = (_begin(*each, at, profile) for each, at, profile in zip(sides, places, profiles, strict=True))
    return width, height, left, top


def _begin(whole: int, side: int, place: float | None, profile: Floats | None) -> int:
    """Where a part of a side begins, in pixels."""
    last = whole - side
    middle = (0.5 if place is None else place) * whole
    if profile is None or not profile.any():
        return min(max(0, round(middle - side / 2)), last)
    about = (0, last)
    if place is not None:
        about = (round(middle - side * (1 + _MIDDLE) / 2), round(middle - side * (1 - _MIDDLE) / 2))
    begins = np.arange(min(max(0, about[0]), last), min(max(0, about[1]), last) + 1)
    edges = np.linspace(0, whole, len(profile) + 1)
    sums = np.concatenate(([0.0], np.cumsum(profile)))
    held = np.interp(begins + side, edges, sums) - np.interp(begins, edges, sums)
    good = begins[held >= _AS_GOOD * held.max()]
    centre = float(profile @ (edges[1:] + edges[:-1]) / 2 / profile.sum())
    return int(good[np.argmin(np.abs(good + side / 2 - centre))])
