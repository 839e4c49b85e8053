"""Shows how far a run is: a bar on a terminal, plain lines elsewhere, or lines for a farm's manager."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final, Never, Self, TextIO

from tqdm import tqdm

from framehaul_client.core.highlights import Progress as Scanned
from framehaul_client.core.highlights import clock
from framehaul_client.core.printable import printable

_LINE_INTERVAL_S: Final = 2.0
_MANAGER_INTERVAL_S: Final = 1.0
_WIPE: Final = "\r\x1b[K"


class Style(StrEnum):
    """How progress is told."""

    AUTO = "auto"
    """On stderr: a bar if that is a terminal, else a line every two seconds."""
    JSON = "json"
    """A JSON object a line, a line a second."""
    OPENJD = "openjd"
    """As Open Job Description reads it (its wiki, "How Jobs Are Run", "Stdout/Stderr Messages"), likewise."""
    NONE = "none"


class Progress:
    """Says nothing; a context manager, and the base of those that say something."""

    def __enter__(self) -> Self:
        """Return the progress."""
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        """Leave the terminal clean."""

    def queue(self, position: int) -> None:
        """Tell the position in the server's queue, 1 is next."""

    def scan(self, scanned: Scanned) -> None:
        """Tell how far a film is scanned, and its best excerpt so far."""

    def start(self, num_frames: int | None) -> None:
        """Begin; `num_frames` will come, if that is known. Each of a film's excerpts begins anew."""

    def advance(self, num_frames: int) -> None:
        """Count `num_frames` more."""

    def finish(self) -> None:
        """All frames came; what is left is the output."""


def choose_progress(style: Style, stream: TextIO, *, terminal: TextIO | None = None) -> Progress:
    """Return what `style` asks for: lines for managers on `stream`, all else on `terminal` (stderr if not given)."""
    terminal = sys.stderr if terminal is None else terminal
    match style:
        case Style.NONE:
            return Progress()
        case Style.JSON:
            return Lines(stream, _json, _MANAGER_INTERVAL_S)
        case Style.OPENJD:
            return Lines(stream, _openjd, _MANAGER_INTERVAL_S)
    return Bar(terminal) if terminal.isatty() else Lines(terminal, _people, _LINE_INTERVAL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a run is.

    Attributes:
        stage: `connecting`, `queued`, `scanning`, `streaming`, `finishing`, `done` or `failed`.
        queue_position: in the server's queue, 1 is next; None: not there.
        num_frames: handed to the encoder.
        total_frames: that will come; None: not known.
        frames_per_s: since the first latents went out.
        silent_s: since the last frame, or since streaming began.
        error: how it failed; empty if it hasn't.
        news: the position in the queue is another one.
        scanned: how far a film is.
    """

    stage: str
    queue_position: int | None
    num_frames: int
    total_frames: int | None
    frames_per_s: float
    silent_s: float
    error: str
    news: bool
    scanned: Scanned | None = None

    @property
    def percent(self) -> float | None:
        """Of the frames; None: not known."""
        return 100.0 * self.num_frames / self.total_frames if self.total_frames else None


class Lines(Progress):
    """Writes a line, or some, at every interval and for each position in the queue, whatever happens meanwhile."""

    def __init__(self, stream: TextIO, form: Callable[[Standing], Sequence[str]], interval_s: float) -> None:
        """Write to `stream` what `form` makes; entering it starts the thread that does so."""
        self._stream = stream
        self._form = form
        self._interval_s = interval_s
        self._stage, self._error = "connecting", ""
        self._position: int | None = None
        self._scanned: Scanned | None = None
        self._num_frames = 0
        self._total: int | None = None
        self._started_s = self._last_s = 0.0
        self._lock = threading.Lock()  # a line is whole
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="framehaul-progress", daemon=True)

    def __enter__(self) -> Self:
        """Tell that it connects, and go on telling."""
        self.tell()
        self._thread.start()
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        """Tell how it ended."""
        self._ended.set()
        self._thread.join()
        self._stage = "done" if exc is None else "failed"
        if exc is not None:
            self._error = "interrupted" if isinstance(exc, KeyboardInterrupt) else str(exc) or type(exc).__name__
        self.tell()

    def queue(self, position: int) -> None:
        """Tell it."""
        self._stage, self._position = "queued", position
        self.tell(news=True)

    def scan(self, scanned: Scanned) -> None:
        """Note it."""
        self._stage, self._scanned = "scanning", scanned

    def start(self, num_frames: int | None) -> None:
        """Begin the count."""
        self._total, self._num_frames, self._started_s = num_frames, 0, time.monotonic()
        self._last_s = self._started_s
        self._stage, self._position = "streaming", None

    def advance(self, num_frames: int) -> None:
        """Count; a lost session may have been in a queue again."""
        self._stage, self._position = "streaming", None
        self._num_frames += num_frames
        self._last_s = time.monotonic()

    def finish(self) -> None:
        """Note it."""
        self._stage = "finishing"

    def tell(self, *, news: bool = False) -> None:
        """Write how far it is now; a reader that is gone is none of this one's business."""
        with self._lock, suppress(OSError):
            self._stream.write("".join(f"{line}\n" for line in self._form(self._standing(news=news))))
            self._stream.flush()

    def _standing(self, *, news: bool) -> Standing:
        begun, now_s = self._started_s > 0, time.monotonic()
        elapsed_s = (self._last_s if self._stage != "streaming" else now_s) - self._started_s
        return Standing(
            stage=self._stage,
            queue_position=self._position,
            num_frames=self._num_frames,
            total_frames=self._total,
            frames_per_s=self._num_frames / elapsed_s if begun and elapsed_s > 0 else 0.0,
            silent_s=now_s - self._last_s if begun else 0.0,
            error=self._error,
            news=news,
            scanned=self._scanned,
        )

    def _tick(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.tell()


def _text(standing: Standing) -> list[str]:
    match standing.stage:
        case "queued":
            return [_queued(standing.queue_position or 0)]
        case "scanning" if standing.scanned is not None:
            return [f"{_scan(standing.scanned)}{_best(standing.scanned)}"]
        case "done" | "failed" | "connecting":
            return []  # others say so
    total = "" if standing.total_frames is None else f" of {standing.total_frames}"
    counted = f"{standing.num_frames}{total} frames, {standing.frames_per_s:.1f} frames/s"
    if standing.stage == "finishing":
        return [f"{counted}; finishing the output"]
    waits = f"; none for {standing.silent_s:.0f} s" if standing.silent_s >= _LINE_INTERVAL_S else ""
    return [f"{counted}{waits}"]


def _people(standing: Standing) -> list[str]:
    return _text(standing) if standing.news or standing.stage != "queued" else []


def _openjd(standing: Standing) -> list[str]:
    if standing.stage == "failed":
        return [f"openjd_fail: {printable(standing.error)}"]
    percent = standing.percent
    status = " ".join(_text(standing)) or standing.stage
    return [f"openjd_status: {status}", *([] if percent is None else [f"openjd_progress: {percent:.1f}"])]


def _json(standing: Standing) -> list[str]:
    if standing.stage == "failed":
        return []  # the report's line says it
    percent = standing.percent
    told: dict[str, object] = asdict(standing) | {"progress": None if percent is None else round(percent, 1)}
    told |= {"frames_per_s": round(standing.frames_per_s, 3), "silent_s": round(standing.silent_s, 3)}
    del told["error"], told["news"], told["scanned"]
    return [json.dumps(told)]


class Bar(Progress):
    """Draws a bar: for a film's scan, and for frames."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on `stream`, a terminal."""
        self._stream = stream
        self._bar: tqdm[Never] | None = None
        self._queued = False
        """The position in the queue is on the terminal."""

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        """Leave the bar if all is well, and wipe it off otherwise."""
        self._wipe_queue()
        self._close(leave=exc is None)

    def queue(self, position: int) -> None:
        """Overwrite the last position; in front of the bar if a lost session is queued again."""
        self._queued = True
        if self._bar is None:
            self._stream.write(f"{_WIPE}{_queued(position)}")
            self._stream.flush()
        else:
            self._bar.set_description_str(_queued(position))

    def scan(self, scanned: Scanned) -> None:
        """Draw on."""
        if self._bar is None:
            bar: tqdm[Never] = tqdm(
                total=scanned.total_s,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc}{percentage:3.0f}%|{bar}|{postfix}",
            )
            self._bar = bar
        self._bar.total = scanned.total_s
        self._bar.set_description_str(f"{_scan(scanned)} ", refresh=False)
        self._bar.set_postfix_str(_best(scanned).removeprefix(", "), refresh=False)
        self._bar.n = min(scanned.scanned_s, scanned.total_s or scanned.scanned_s)
        self._bar.refresh()

    def start(self, num_frames: int | None) -> None:
        """Draw the empty bar, below those before it."""
        self._wipe_queue()
        self._close(leave=True)
        bar: tqdm[Never] = tqdm(total=num_frames, unit=" frames", file=self._stream, dynamic_ncols=True)
        self._bar = bar

    def advance(self, num_frames: int) -> None:
        """Draw on."""
        self._wipe_queue()
        if self._bar is not None:
            self._bar.update(num_frames)

    def _close(self, *, leave: bool) -> None:
        if self._bar is not None:
            self._bar.leave = leave
            self._bar.close()
            self._bar = None

    def _wipe_queue(self) -> None:
        if self._queued:
            self._queued = False
            if self._bar is None:
                self._stream.write(_WIPE)
            else:
                self._bar.set_description_str(refresh=False)


def _queued(position: int) -> str:
    return f"queued, position {position}"


def _scan(progress: Scanned) -> str:
    if progress.total_s is None:
        return f"sent {progress.uploaded_bytes / 1e6:.1f} MB"
    return f"scanned {clock(progress.scanned_s)} of {clock(progress.total_s)}"


def _best(progress: Scanned) -> str:
    return "" if progress.best is None else f", best so far {progress.best}"
