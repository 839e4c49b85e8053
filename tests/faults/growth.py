"""Does the server's memory grow with the streams that end badly? A straight line through samples of it, and its error.

A sample is taken while no session is open: what sessions hold is no leak, and it is far more than what is looked for.
It counts the process's own memory alone (`RssAnon`): rings are shared, and come and go with their workers. The first
fifth of the samples is left out, since caches fill and the heap finds its size then.

What remains jumps: the allocator takes memory in large pieces and keeps some of what is free. So the line's slope has a
standard error, and only a slope that is above the bound by more than twice that counts. That isn't enough: a heap that
finds its size late makes one step, and a line through a step has a small error too. A real leak rises from sample to
sample, from beginning to end. So the bound must be exceeded in the first half and in the second one. A line that
exceeds it over the whole run alone is no growth and no good sign: the run was too short to tell. The longer the run,
the smaller the leak that shows. `min_detectable` says how small, so that a run that could show nothing doesn't pass for
a good one.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

BOUND_BYTES: Final = 1024
"""A stream that ends badly may leave so much behind: gRPC itself leaks about 0.3 KiB (grpc/grpc#43360)."""
_WARM_UP: Final = 0.2
_ERRORS: Final = 2.0
_MIN_SAMPLES: Final = 5


@dataclass(frozen=True)
class Sample:
    """Bytes of the server when so many streams had ended badly."""

    num_streams: int
    num_bytes: int


@dataclass(frozen=True)
class Line:
    """Bytes a stream, and the standard error of that."""

    slope: float
    error: float

    @property
    def exceeds_bound(self) -> bool:
        return self.slope - _ERRORS * self.error > BOUND_BYTES

    @property
    def min_detectable(self) -> float:
        """The smallest slope that would surely have been called too large."""
        return BOUND_BYTES + 2 * _ERRORS * self.error


@dataclass(frozen=True)
class Growth:
    """Lines through all samples after the warm-up, and through those of either half."""

    whole: Line
    halves: tuple[Line, Line]
    num_samples: int

    @property
    def exceeds_bound(self) -> bool:
        return all(half.exceeds_bound for half in self.halves)

    @property
    def too_short(self) -> bool:
        """Memory rose, but not all the time: a step, or a leak that this run can't show."""
        return self.whole.exceeds_bound and not self.exceeds_bound

    @property
    def min_detectable(self) -> float:
        """The smallest leak that would surely have been called one, in bytes a stream."""
        return max(half.min_detectable for half in self.halves)

    def __str__(self) -> str:
        first, second = (f"{half.slope:.0f} +- {half.error:.0f}" for half in self.halves)
        return (
            f"{self.whole.slope:.0f} +- {self.whole.error:.0f} bytes a stream that ended badly, {first} in the first "
            f"half and {second} in the second (bound {BOUND_BYTES}, {self.num_samples} samples; "
            f"{self.min_detectable:.0f} would have been found)"
        )


def growth(samples: list[Sample]) -> Growth:
    """Fit the samples after the warm-up.

    Raises:
        ValueError: too few of them, or all of a half at the same number of streams.
    """
    used = samples[round(_WARM_UP * len(samples)) :]
    middle = len(used) // 2
    return Growth(_fit(used), (_fit(used[:middle]), _fit(used[middle:])), len(used))


def _fit(samples: list[Sample]) -> Line:
    streams = np.array([sample.num_streams for sample in samples], np.float64)
    if len(samples) < _MIN_SAMPLES or np.ptp(streams) == 0:
        count = len(samples)
        raise ValueError(f"{count} samples over {sorted(set(streams))} streams: at least {_MIN_SAMPLES} are needed")
    sizes = np.array([sample.num_bytes for sample in samples], np.float64)
    streams -= streams.mean()
    spread = float(streams @ streams)
    slope = float(streams @ sizes) / spread
    off = sizes - sizes.mean() - slope * streams
    return Line(slope=slope, error=float(np.sqrt(off @ off / (len(samples) - 2) / spread)))


def own_bytes(pid: int) -> int:
    """Memory of a process that it shares with nobody, resident now."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None, "Linux tells since 4.5"
    return int(found[1]) << 10
