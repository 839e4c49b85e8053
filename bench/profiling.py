"""What the GPU did: kernels and copies as the CUDA profiler saw them, whatever thread or stream they came from."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.gaps import Kernel, find_gaps
from bench.harness import union_length

_MICROSECOND: Final = 1e-6


class DeviceProfiler:
    """torch.profiler with CUDA activities alone, so that no operator of Python's is slowed down.

    Imports torch when it starts, so that a process may hold one before torch is loaded.
    """

    def __init__(self) -> None:
        """Start idle."""
        self._profile: Any = None

    def start(self) -> None:
        """Begin to record; from the same thread as `stop`."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        activity = ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU
        self._profile = profile(activities=[activity])
        self._profile.start()

    def stop(self) -> dict[str, Any]:
        """End recording and sum up what was recorded; see `summary`."""
        profile, self._profile = self._profile, None
        profile.stop()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            path = Path(folder) / "trace.json"
            profile.export_chrome_trace(str(path))
            trace = json.loads(path.read_bytes())
        return summary(trace["traceEvents"])


def summary(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the events of a Chrome trace.

    Returns:
        `busy`: union of kernel intervals over the span from the first kernel's start to the last one's end (0 without
        kernels); `span_s`; `num_kernels`; `gaps`, see `find_gaps`; `to_host_bytes` and `to_host_s`: copies from the
        device, and their time.
    """
    kernels: list[Kernel] = []
    to_host_bytes = to_host_us = 0.0
    for event in events:
        if event.get("ph") != "X":
            continue
        start, duration = float(event["ts"]), float(event["dur"])
        if event.get("cat") == "kernel":
            kernels.append((start, start + duration, event["name"]))
        elif event.get("cat") == "gpu_memcpy" and "DtoH" in event["name"]:
            to_host_bytes += float(event["args"].get("bytes", 0))
            to_host_us += duration
    span = max(end for _, end, _ in kernels) - min(start for start, _, _ in kernels) if kernels else 0.0
    return {
        "busy": union_length([(start, end) for start, end, _ in kernels]) / span if span else 0.0,
        "span_s": span * _MICROSECOND,
        "num_kernels": float(len(kernels)),
        "gaps": find_gaps(kernels),
        "to_host_bytes": to_host_bytes,
        "to_host_s": to_host_us * _MICROSECOND,
    }
