"""What was done for films that were searched, since the server's start. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class HighlightTotals:
    """Counters; requests that run count too, as far as they are."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests by tenant and cause, as the log has it."""
    film_s: float = 0.0
    """Length of films that were sampled to their end, each once for each search of it."""
    num_batches: int = 0
    """Of films' frames, on the device."""
    device_ns: int = 0
    """For those."""

    def had_device(self, device_ns: int) -> None:
        """A batch of frames was on the device."""
        self.num_batches += 1
        self.device_ns += device_ns
