"""Films for `bench.highlight_arms`, and how simple programs read them; without torch, for processes that load alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import cycle, repeat
from pathlib import Path
from typing import Any, Final, TypeAlias

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from tests.support.planted import Planted, make_planted

from framehaul_pipeline.config import MAX_BATCH_FRAMES
from framehaul_pipeline.encode.video_input import screen_rgb
from framehaul_pipeline.highlight.messages import FilmInfo, Scan
from framehaul_pipeline.highlight.rank import histogram
from framehaul_pipeline.highlight.sample import Film, OwnPosition

SIDE: Final = 224
_RATE: Final = 30
_KEYS_S: Final = 5
_FIRST_SEED: Final = 100

Loaded: TypeAlias = tuple[list[float], NDArray[Any], NDArray[np.float32]]
"""Times, frames `[N, side, side, 3] uint8` or `[N, 3, side, side] float32`, and histograms."""


@dataclass(frozen=True)
class Loading:
    """How a simple program reads."""

    every_frame: bool = False
    """Each decoded frame becomes RGB in its full size, and those that are sampled are made smaller then."""
    as_float: bool = False
    """What is handed over is what the network takes."""


def make_films(folder: Path, count: int, seconds: int, heights: Sequence[int]) -> list[Planted]:
    """So many films with a planted product, of these heights in turns; several are made at a time."""
    with ProcessPoolExecutor(min(count, len(os.sched_getaffinity(0)))) as pool:
        seeds = range(_FIRST_SEED, _FIRST_SEED + count)
        return list(pool.map(_make_film, repeat(folder), seeds, cycle(heights), repeat(seconds)))


def _make_film(folder: Path, seed: int, height: int, seconds: int) -> Planted:
    """Enlarged and with grain by FFmpeg's filters: pixels made in Python would take minutes."""
    small = make_planted(folder, seed, seconds=seconds, rate=_RATE)
    film, width = folder / f"film-{seed}-{height}.mp4", height * 16 // 9 // 2 * 2
    with av.open(str(small.film)) as source, av.open(str(film), "w") as target:
        read = source.streams.video[0]
        graph = av.filter.Graph()
        begin = graph.add_buffer(template=read)
        chain = [
            graph.add("scale", f"{width}:{height}:flags=bicubic"),
            graph.add("noise", "alls=7:allf=t"),
            graph.add("format", "yuv420p"),
            graph.add("buffersink"),
        ]
        for before, after in zip([begin, *chain], chain, strict=False):
            before.link_to(after)
        graph.configure()
        written = target.add_stream("libx264", rate=_RATE, options={"preset": "veryfast", "crf": "25"})
        written.width, written.height, written.pix_fmt = width, height, "yuv420p"
        written.gop_size = _KEYS_S * _RATE
        for index, frame in enumerate(source.decode(read)):
            begin.push(frame)
            made = chain[-1].pull()
            assert isinstance(made, VideoFrame)
            made.pts, made.time_base = index, Fraction(1, _RATE)
            target.mux(written.encode(made))
        target.mux(written.encode(None))
    small.film.unlink()
    return replace(small, film=film)


class _EveryFrame(Film):
    """Converts all that it decodes."""

    def _read_from(self, start: float, *, keys_alone: bool = False) -> Iterator[tuple[float, VideoFrame]]:
        for time, frame in super()._read_from(start, keys_alone=keys_alone):
            pixels = screen_rgb(frame, frame.width, frame.height, self._stream, self._reformatter)
            yield time, VideoFrame.from_ndarray(pixels, format="rgb24")


def probe(path: Path) -> FilmInfo:
    """What the film is."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return Film(OwnPosition(fd), str(path), max_pixels=1 << 26, max_seconds=1e6).info()
    finally:
        os.close(fd)


def load(path: Path, scan: Scan, how: Loading) -> Iterator[Loaded]:
    """The samples of a part, in batches."""
    fd = os.open(path, os.O_RDONLY)
    try:
        kind = _EveryFrame if how.every_frame else Film
        film = kind(OwnPosition(fd), str(path), max_pixels=1 << 26, max_seconds=1e6)
        batch: list[tuple[float, NDArray[np.uint8]]] = []
        for each in film.samples(scan, SIDE):
            batch.append(each)
            if len(batch) == MAX_BATCH_FRAMES:
                yield _whole(batch, how)
                batch = []
        if batch:
            yield _whole(batch, how)
    finally:
        os.close(fd)


def _whole(batch: list[tuple[float, NDArray[np.uint8]]], how: Loading) -> Loaded:
    frames: NDArray[Any] = np.stack([pixels for _, pixels in batch])
    histograms = np.stack([histogram(np.ascontiguousarray(pixels)) for _, pixels in batch]).astype(np.float32)
    if how.as_float:
        frames = np.ascontiguousarray(frames.transpose(0, 3, 1, 2), np.float32)
    return [when for when, _ in batch], frames, histograms
