"""Cuts the film into shots, and keeps a few short windows of each as one training and one held-out clip.

Reads and writes with PyAV, frame by frame; the whole film is never in memory, only the shot under way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from training.media import HEIGHT, WIDTH
from training.sources import Film

WINDOW_FRAMES = 32
ONE_MORE_WINDOW_FRAMES = 80
"""A shot gives one window, and one more for each so many frames."""
CUT_LEVELS = 22.0
"""Mean change of a thumbnail, in 8-bit levels, that counts as a cut."""
QUALITY_CRF = 17


def _shots(path: Path) -> Iterator[tuple[float, list[av.VideoFrame]]]:
    """Yield each shot's start in seconds and its frames, scaled to 854x480."""
    shot: list[av.VideoFrame] = []
    start_s, before = 0.0, None
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            small = frame.reformat(width=WIDTH, height=HEIGHT, format="yuv420p", interpolation="AREA")
            thumbnail = small.reformat(width=64, height=36, format="rgb24").to_ndarray().astype(np.int16)
            if before is not None and np.abs(thumbnail - before).mean() > CUT_LEVELS:
                yield start_s, shot
                shot, start_s = [], float(frame.time or 0.0)
            shot.append(small)
            before = thumbnail
    if shot:
        yield start_s, shot


def _windows(num_frames: int) -> list[int]:
    """First frames of the windows of a shot, spread evenly; none in a shot too short for one."""
    # The frames beside a cut may hold a trace of the other shot (the film was encoded with few bits).
    room = num_frames - 2 - WINDOW_FRAMES
    if room < 0:
        return []
    num_windows = 1 + room // ONE_MORE_WINDOW_FRAMES
    return [1 + round(room * (i + 0.5) / num_windows) for i in range(num_windows)]


class _ClipWriter:
    """One H.264 file of windows laid end to end."""

    def __init__(self, path: Path) -> None:
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=24)
        self._stream.width, self._stream.height, self._stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        self._stream.options = {"crf": str(QUALITY_CRF), "preset": "fast", "bf": "2"}
        self.num_frames = 0

    def write(self, frames: list[av.VideoFrame]) -> None:
        """Append a window."""
        for frame in frames:
            frame.pts, frame.time_base = self.num_frames, Fraction(1, 24)
            frame.pict_type = av.video.frame.PictureType.NONE
            self.num_frames += 1
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Flush and close."""
        self._container.mux(self._stream.encode(None))
        self._container.close()


def cut(film: Film, path: Path, out: Path) -> None:
    """Write `film-train.mp4`, `film-test.mp4` and `film.json` (how many windows of how many frames) into `out`."""
    writers = {"train": _ClipWriter(out / "film-train.mp4"), "test": _ClipWriter(out / "film-test.mp4")}
    starts: dict[str, list[float]] = {"train": [], "test": []}
    shots = {"train": 0, "test": 0}
    for start_s, shot in _shots(path):
        end_s = start_s + len(shot) / 24
        split = "test" if any(start_s < b and end_s > a for a, b in film.held_out_s) else "train"
        shots[split] += 1
        for first in _windows(len(shot)):
            window = shot[first : first + WINDOW_FRAMES]
            if max(int(f.to_ndarray()[:HEIGHT].max()) for f in window) < 40:
                continue  # black
            writers[split].write(window)
            starts[split].append(round(start_s + first / 24, 3))
    for writer in writers.values():
        writer.close()
    summary = {"window_frames": WINDOW_FRAMES, "shots": shots, "starts_s": starts}
    (out / "film.json").write_text(json.dumps(summary, indent=1) + "\n")
