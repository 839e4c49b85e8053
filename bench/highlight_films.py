"""Films for `bench.highlight_arms`, and how simple programs read them; without torch, for processes that load alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import cycle, islice, repeat
from pathlib import Path
from typing import Any, Final, TypeAlias

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
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
_PIECE_S: Final = 10
"""Of a film, made by one process."""

Loaded: TypeAlias = tuple[list[float], NDArray[Any], NDArray[np.float32]]
"""Times, frames `[N, side, side, 3] uint8` or `[N, 3, side, side] float32`, and histograms."""


@dataclass(frozen=True)
class Loading:
    """How a simple program reads."""

    every_frame: bool = False
    """Each decoded frame becomes RGB in its full size, and those that are sampled are made smaller then."""
    as_float: bool = False
    """What is handed over is what the network takes."""


def make_films(folder: Path, seeds: Sequence[int], seconds: int, heights: Sequence[int]) -> list[Planted]:
    """A film with a planted product for each of `seeds`, of these heights in turns, by all processors together."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        small = list(pool.map(_make_small, repeat(folder), seeds, repeat(seconds)))
        tall = list(islice(cycle(heights), len(seeds)))
        starts = range(0, seconds, _PIECE_S)
        pieces = [
            [pool.submit(_enlarge, each.film, height, start) for start in starts]
            for each, height in zip(small, tall, strict=True)
        ]
        films = [folder / f"{each.film.stem}-{height}.mp4" for each, height in zip(small, tall, strict=True)]
        for film, parts in zip(films, pieces, strict=True):
            _join([part.result() for part in parts], film)
    return [replace(each, film=film) for each, film in zip(small, films, strict=True)]


def _make_small(folder: Path, seed: int, seconds: int) -> Planted:
    return make_planted(folder, seed, seconds=seconds, rate=_RATE)


def _enlarge(small: Path, height: int, start: int) -> Path:
    """A piece of a film; pixels of that size made in Python would take minutes."""
    width, piece = height * 16 // 9 // 2 * 2, small.with_suffix(f".{height}.{start}.mp4")
    with av.open(str(small)) as source, av.open(str(piece), "w") as target:
        read, reformatter = source.streams.video[0], VideoReformatter()
        # As players' films are: entropy coding and loop filter are what decoding costs.
        options = {"preset": "veryfast", "crf": "28", "bf": "0", "threads": "1"}
        written = target.add_stream("libx264", rate=_RATE, options=options)
        written.width, written.height, written.pix_fmt = width, height, "yuv420p"
        written.gop_size = _KEYS_S * _RATE
        frames = islice(source.decode(read), start * _RATE, (start + _PIECE_S) * _RATE)
        for index, frame in enumerate(frames):
            made = reformatter.reformat(frame, width=width, height=height, format="yuv420p", interpolation="BICUBIC")
            made.pts, made.time_base = index, Fraction(1, _RATE)
            target.mux(written.encode(made))
        target.mux(written.encode(None))
    return piece


def _join(pieces: Sequence[Path], film: Path) -> None:
    """One after the other: each begins with a key frame, and no frame is shown out of its order."""
    with av.open(str(film), "w") as target:
        written: VideoStream | None = None
        for index, piece in enumerate(pieces):
            with av.open(str(piece)) as source:
                read = source.streams.video[0]
                written = written or target.add_stream_from_template(read)
                for packet in source.demux(read):
                    if packet.pts is None or packet.dts is None or packet.time_base is None:
                        continue
                    late = int(index * _PIECE_S / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + late, packet.dts + late, written
                    target.mux(packet)


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
