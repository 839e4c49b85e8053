"""Does the server's memory grow with the streams that end badly? A straight line through samples of it, and its error.

A sample is taken while no session is open: what sessions hold is no leak, and it is far more than what is looked for.
It counts the process's own memory alone (`RssAnon`): rings are shared, and come and go with their workers. The first
fifth of the samples is left out, since caches fill and the heap finds its size then.

What remains jumps: the allocator takes memory in large pieces and keeps some of what is free. So the line's slope has a
standard error, and only a slope that is above the bound by more than twice that is called growth. A real leak rises
from sample to sample, so its error is small; the longer the run, the smaller the leak that shows. `min_detectable`
says how small, so that a run that could show nothing doesn't pass for a good one.
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
class Growth:
    """Bytes a stream, and the standard error of that."""

    slope: float
    error: float
    num_samples: int

    @property
    def exceeds_bound(self) -> bool:
        return self.slope - _ERRORS * self.error > BOUND_BYTES

    @property
    def min_detectable(self) -> float:
        """The smallest leak that would surely have been called one, in bytes a stream."""
        return BOUND_BYTES + 2 * _ERRORS * self.error

    def __str__(self) -> str:
        return (
            f"{self.slope:.0f} +- {self.error:.0f} bytes a stream that ended badly (bound {BOUND_BYTES}, "
            f"{self.num_samples} samples; {self.min_detectable:.0f} would have been found)"
        )


def growth(samples: list[Sample]) -> Growth:
    """Fit the samples after the warm-up.

    Raises:
        ValueError: too few of them, or all at the same number of streams.
    """
    used = samples[round(_WARM_UP * len(samples)) :]
    streams = np.array([sample.num_streams for sample in used], np.float64)
    if len(used) < _MIN_SAMPLES or np.ptp(streams) == 0:
        raise ValueError(f"{len(used)} samples over {sorted(set(streams))} streams: at least {_MIN_SAMPLES} are needed")
    sizes = np.array([sample.num_bytes for sample in used], np.float64)
    streams -= streams.mean()
    spread = float(streams @ streams)
    slope = float(streams @ sizes) / spread
    off = sizes - sizes.mean() - slope * streams
    error = float(np.sqrt(off @ off / (len(used) - 2) / spread))
    return Growth(slope=slope, error=error, num_samples=len(used))


def own_bytes(pid: int) -> int:
    """Memory of a process that it shares with nobody, resident now."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None, "Linux tells since 4.5"
    return int(found[1]) << 10
