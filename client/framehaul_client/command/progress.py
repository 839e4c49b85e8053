"""Shows how far a run is: a bar on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from typing import Final, Never, Self, TextIO

from tqdm import tqdm

from framehaul_client.core.highlights import Progress as ScanProgress
from framehaul_client.core.highlights import clock

_LINE_INTERVAL_S: Final = 2.0
_WIPE: Final = "\r\x1b[K"


class Progress:
    """Says nothing; a context manager, and the base of those that say something."""

    def __enter__(self) -> Self:
        """Return the progress."""
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        """Leave the terminal clean."""

    def queue(self, position: int) -> None:
        """Tell the position in the server's queue, 1 is next."""

    def start(self, num_frames: int | None) -> None:
        """Begin; `num_frames` will come, if that is known."""

    def advance(self, num_frames: int) -> None:
        """Count `num_frames` more."""


def choose_progress(*, quiet: bool, stream: TextIO | None = None) -> Progress:
    """Return what suits `stream` (stderr if not given)."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return Progress()
    return Bar(stream) if stream.isatty() else Lines(stream)


class Lines(Progress):
    """Writes a plain line every two seconds, for logs."""

    def __init__(self, stream: TextIO, interval_s: float = _LINE_INTERVAL_S) -> None:
        """Write to `stream`, a line for each `interval_s` in which frames came."""
        self._stream = stream
        self._interval_s = interval_s
        self._num_frames = 0
        self._total = ""
        self._started_s = self._told_s = 0.0

    def queue(self, position: int) -> None:
        """Write a line."""
        self._stream.write(f"{_queued(position)}\n")
        self._stream.flush()

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


class Bar(Progress):
    """Draws a bar."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on `stream`, a terminal."""
        self._stream = stream
        self._bar: tqdm[Never] | None = None
        self._queued = False
        """The position in the queue is on the terminal."""

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        """Leave the bar if all is well, and wipe it off otherwise."""
        self._wipe_queue()
        if self._bar is not None:
            self._bar.leave = exc is None
            self._bar.close()

    def queue(self, position: int) -> None:
        """Overwrite the last position; in front of the bar if a lost session is queued again."""
        self._queued = True
        if self._bar is None:
            self._stream.write(f"{_WIPE}{_queued(position)}")
            self._stream.flush()
        else:
            self._bar.set_description_str(_queued(position))

    def start(self, num_frames: int | None) -> None:
        """Draw the empty bar."""
        self._wipe_queue()
        bar: tqdm[Never] = tqdm(total=num_frames, unit=" frames", file=self._stream, dynamic_ncols=True)
        self._bar = bar

    def advance(self, num_frames: int) -> None:
        """Draw on."""
        self._wipe_queue()
        if self._bar is not None:
            self._bar.update(num_frames)

    def _wipe_queue(self) -> None:
        if self._queued:
            self._queued = False
            if self._bar is None:
                self._stream.write(_WIPE)
            else:
                self._bar.set_description_str(refresh=False)


def _queued(position: int) -> str:
    return f"queued, position {position}"


class Scan:
    """Shows how far a film is scanned, and its best excerpt so far. This one says nothing."""

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        """Leave the terminal clean."""

    def scan(self, progress: ScanProgress) -> None:
        """Tell what the server says."""

    def frames(self, num_frames: int) -> None:
        """So many frames of an excerpt come next."""

    def advance(self, num_frames: int) -> None:
        """Count frames that came."""


def choose_scan(*, quiet: bool, stream: TextIO | None = None) -> Scan:
    """Return what suits `stream` (stderr if not given)."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return Scan()
    return ScanBar(stream) if stream.isatty() else ScanLines(stream)


class ScanLines(Scan):
    """Writes a plain line every two seconds, for logs."""

    def __init__(self, stream: TextIO, interval_s: float = _LINE_INTERVAL_S) -> None:
        """Write to `stream`, a line for each `interval_s` in which something came."""
        self._stream = stream
        self._interval_s = interval_s
        self._told_s = time.monotonic()

    def scan(self, progress: ScanProgress) -> None:
        """Write a line when one is due."""
        now_s = time.monotonic()
        if now_s - self._told_s >= self._interval_s:
            self._told_s = now_s
            self._stream.write(f"{_scanned(progress)}{_best(progress)}\n")
            self._stream.flush()


class ScanBar(Scan):
    """Draws a bar for the scan, and one for each excerpt's frames."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on `stream`, a terminal."""
        self._stream = stream
        self._bar: tqdm[Never] | None = None

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        """Leave the bar if all is well, and wipe it off otherwise."""
        self._close(leave=exc is None)

    def scan(self, progress: ScanProgress) -> None:
        """Draw on."""
        if self._bar is None:
            bar: tqdm[Never] = tqdm(
                total=progress.total_s,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc}{percentage:3.0f}%|{bar}|{postfix}",
            )
            self._bar = bar
        self._bar.total = progress.total_s
        self._bar.set_description_str(f"{_scanned(progress)} ", refresh=False)
        self._bar.set_postfix_str(_best(progress).removeprefix(", "), refresh=False)
        self._bar.n = min(progress.scanned_s, progress.total_s or progress.scanned_s)
        self._bar.refresh()

    def frames(self, num_frames: int) -> None:
        """Draw the empty bar."""
        self._close(leave=True)
        bar: tqdm[Never] = tqdm(total=num_frames, unit=" frames", file=self._stream, dynamic_ncols=True)
        self._bar = bar

    def advance(self, num_frames: int) -> None:
        """Draw on."""
        if self._bar is not None:
            self._bar.update(num_frames)

    def _close(self, *, leave: bool) -> None:
        if self._bar is not None:
            self._bar.leave = leave
            self._bar.close()
            self._bar = None


def _scanned(progress: ScanProgress) -> str:
    if progress.total_s is None:
        return f"sent {progress.uploaded_bytes / 1e6:.1f} MB"
    return f"scanned {clock(progress.scanned_s)} of {clock(progress.total_s)}"


def _best(progress: ScanProgress) -> str:
    return "" if progress.best is None else f", best so far {progress.best}"
