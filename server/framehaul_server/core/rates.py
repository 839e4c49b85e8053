"""What each model takes of the device in service, by the size of its frames: what a video costs. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.link.messages import DeviceTime

_MAX_SIZES: Final = 64
"""Of all models together."""
_NUM_FIRST: Final = 2
"""So many chunks of a length don't count: kernels are compiled and chosen in them."""
_MEMORY_NS: Final = 600_000_000_000
"""Of device time; what is older counts half, then a quarter."""


@dataclass(slots=True)
class _Rate:
    seen: Counter[int] = field(default_factory=Counter)
    """Chunks by their number of latents."""
    num_frames: float = 0.0
    device_ns: float = 0.0
    kernels_ns: float = 0.0


class Rates:
    """One server's."""

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._rates: dict[tuple[str, tuple[int, int]], _Rate] = {}
        """By model and size; what was decoded last comes last."""

    def add(self, time: DeviceTime) -> None:
        """Count a chunk, unless it failed."""
        if not time.device_ns:
            return
        key = time.model, time.frame_size
        rate = self._rates.pop(key, None) or _Rate()
        self._rates[key] = rate
        if len(self._rates) > _MAX_SIZES:
            del self._rates[next(iter(self._rates))]
        rate.seen[time.num_latents] += 1
        if rate.seen[time.num_latents] <= _NUM_FIRST:
            return
        if rate.device_ns > _MEMORY_NS:
            rate.num_frames, rate.device_ns, rate.kernels_ns = (
                each / 2 for each in (rate.num_frames, rate.device_ns, rate.kernels_ns)
            )
        rate.num_frames += time.num_frames
        rate.device_ns += time.device_ns
        rate.kernels_ns += time.kernels_ns

    def of(self, model: str) -> list[pb.MeasuredRate]:
        """Those of one model, smaller frames first."""
        return [
            pb.MeasuredRate(
                width=width,
                height=height,
                num_frames=round(rate.num_frames),
                device_s=rate.device_ns / 1e9,
                kernels_s=rate.kernels_ns / 1e9,
            )
            for (name, (height, width)), rate in sorted(self._rates.items(), key=lambda item: item[0])
            if name == model and rate.num_frames >= 1
        ]
