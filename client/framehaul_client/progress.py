"""Tells how far a run is: a bar on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Never, Protocol, Self, TextIO

from tqdm import tqdm

_LINE_INTERVAL_S: Final = 2.0


class Progress(Protocol):
    """Counts frames; a context manager."""

    def __enter__(self) -> Self:
        """Return the progress."""

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal clean."""

    def start(self, num_frames: int | None) -> None:
        """Begin; `num_frames` will come, if that is known."""

    def advance(self, num_frames: int) -> None:
        """Count `num_frames` more."""


def choose_progress(*, quiet: bool, stream: TextIO | None = None) -> Progress:
    """Return what suits `stream` (stderr if not given)."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return Silence()
    return Bar(stream) if stream.isatty() else Lines(stream)


class Silence:
    """Says nothing."""

    def __enter__(self) -> Self:
        """Return the progress."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing."""

    def start(self, num_frames: int | None) -> None:
        """Do nothing."""

    def advance(self, num_frames: int) -> None:
        """Do nothing."""


class Lines(Silence):
    """Writes a plain line every two seconds, for logs."""

    def __init__(self, stream: TextIO, interval_s: float = _LINE_INTERVAL_S) -> None:
        """Write to `stream`, a line for each `interval_s` in which frames came."""
        self._stream = stream
        self._interval_s = interval_s
        self._num_frames = 0
        self._total = ""
        self._started_s = self._told_s = 0.0

    def start(self, num_frames: int | None) -> None:
        """Begin the count."""
        self._total = "" if num_frames is None else f" of {num_frames}"
        self._started_s = self._told_s = time.monotonic()

    def advance(self, num_frames: int) -> None:
        """Count, and write a line when one is due."""
        self._num_frames += num_frames
        now_s = time.monotonic()
        if now_s - self._told_s >= self._interval_s:
            self._told_s = now_s
            speed = self._num_frames / (now_s - self._started_s)
            self._stream.write(f"{self._num_frames}{self._total} frames, {speed:.1f} frames/s\n")
            self._stream.flush()


class Bar(Silence):
    """Draws a bar."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on `stream`, a terminal."""
        self._stream = stream
        self._bar: tqdm[Never] | None = None

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the bar as it stands when all is well, and wipe it off else."""
        if self._bar is not None:
            self._bar.leave = exc is None
            self._bar.close()

    def start(self, num_frames: int | None) -> None:
        """Draw the empty bar."""
        bar: tqdm[Never] = tqdm(total=num_frames, unit=" frames", file=self._stream, dynamic_ncols=True)
        self._bar = bar

    def advance(self, num_frames: int) -> None:
        """Draw on."""
        if self._bar is not None:
            self._bar.update(num_frames)
