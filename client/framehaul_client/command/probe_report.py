"""What a probe measured, run by run and in all, for people and for programs; pure."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Final

import numpy as np

from framehaul_client.errors import FramehaulError

OK: Final = "ok"
_MOST_KEPT: Final = 10_000  # runs of a server that a summary looks back on


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run at one server; what it didn't come to is None.

    Attributes:
        target: the server.
        started_at: Unix time.
        error: why it failed.
        stage: what it failed at: `connect`, `queue`, `open` or `frames`.
        model: what decoded.
        num_frames: frames received and checked.
        frame_bytes: their size.
        connect_s: until the server answered.
        queue_s: in the server's queue.
        open_s: from the first message to the server's answer, without the queue.
        first_frame_s: from the first message to the first frame, without the queue.
        stream_s: likewise, to the last frame.
        total_s: from the beginning to the end of the stream, or to the failure.
    """

    target: str
    started_at: float
    error: FramehaulError | None = None
    stage: str | None = None
    model: str | None = None
    num_frames: int = 0
    frame_bytes: int = 0
    connect_s: float | None = None
    queue_s: float = 0.0
    open_s: float | None = None
    first_frame_s: float | None = None
    stream_s: float | None = None
    total_s: float

    @property
    def outcome(self) -> str:
        """`ok`, or the name of the error's class."""
        return OK if self.error is None else type(self.error).__name__

    @property
    def frames_per_s(self) -> float:
        """Frames a second, from the first message to the last frame."""
        return self.num_frames / self.stream_s if self.stream_s else 0.0

    @property
    def reason(self) -> str | None:
        """The error's text, which names the server first."""
        return None if self.error is None else str(self.error).removeprefix(f"{self.target}: ")

    def as_json(self) -> str:
        """Make one line of JSON; times in seconds, sizes in bytes."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {
            "started_at": self._started(timespec="milliseconds"),
            "outcome": self.outcome,
            "error": self.reason,
            "frames_per_s": self.frames_per_s,
        }
        return json.dumps(
            {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}
        )

    def as_text(self) -> str:
        """Make a line for people."""
        begin = f"{self._started(timespec='seconds')} {self.target}"
        if self.error is not None:
            return f"{begin}: failed after {self.total_s:.2f} s ({self.stage}): {self.outcome}: {self.reason}"
        queued = f", {self.queue_s:.2f} queued" if self.queue_s else ""
        return (
            f"{begin}: first frame after {self.first_frame_s:.3f} s; "
            f"{self.num_frames} frames in {self.stream_s:.2f} s, {self.frames_per_s:.1f} frames/s; "
            f"{self.total_s:.2f} s in all, {self.connect_s:.2f} connecting{queued}"
        )

    def _started(self, timespec: str) -> str:
        return datetime.fromtimestamp(self.started_at, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


class Summary:
    """The runs so far at one server, in bounded memory."""

    def __init__(self, target: str) -> None:
        """Begin with none."""
        self._target = target
        self._outcomes: Counter[str] = Counter()
        self._good: deque[tuple[float, ...]] = deque(maxlen=_MOST_KEPT)

    @property
    def num_runs(self) -> int:
        """How many there were."""
        return self._outcomes.total()

    def add(self, run: Run) -> None:
        """Take one in."""
        self._outcomes[run.outcome] += 1
        if run.error is None:
            values = (run.first_frame_s, run.total_s, run.connect_s, run.queue_s, run.frames_per_s)
            self._good.append(tuple(value or 0.0 for value in values))

    def as_text(self) -> str:
        """Make a few lines for people: how many failed and why; percentiles of those that ended well."""
        failed = [f"{count} {outcome}" for outcome, count in self._outcomes.most_common() if outcome != OK]
        num_failed = self.num_runs - self._outcomes[OK]
        why = f" ({', '.join(failed)})" if failed else ""
        lines = [f"{self._target}: {self.num_runs} {'run' if self.num_runs == 1 else 'runs'}, {num_failed} failed{why}"]
        if self._good:
            *times, speeds = zip(*self._good, strict=True)
            for name, values in zip(("first frame", "in all", "connecting", "queued"), times, strict=True):
                p50, p95, most = np.percentile(values, (50, 95, 100))
                lines.append(f"  {name:<12} p50 {p50:<9.3f} p95 {p95:<9.3f} max {most:.3f} s")
            p50, p5, least = np.percentile(speeds, (50, 5, 0))
            lines.append(f"  {'frames/s':<12} p50 {p50:<9.1f} p5  {p5:<9.1f} min {least:.1f}")
        if len(self._good) < self._outcomes[OK]:
            lines[0] += f"; below, the last {len(self._good)} that ended well"
        return "\n".join(lines)
