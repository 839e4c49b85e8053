"""How a long program of GPU measurements keeps to its time, and which GPU it runs on."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psutil

from bench.harness import Results

_GRACE_S: Final = 15.0


class Budget:
    """Runs parts until the time is up; figures that are there are written in any case."""

    def __init__(self, seconds: float, out: Path) -> None:
        """Start the clock; `out` is where results go."""
        self._ends_s = time.monotonic() + seconds
        self._seconds, self._out = seconds, out
        self._results: list[Results] = []

    def remaining_s(self) -> float:
        """Seconds that are left."""
        return self._ends_s - time.monotonic()

    def run(self, results: Results, parts: Sequence[tuple[str, Callable[[], None]]]) -> None:
        """Run parts that write into `results`; one that fails leaves the others their figures."""
        if results not in self._results:
            self._results.append(results)
        started_s = time.monotonic()
        for name, part in parts:
            try:
                part()
            except Exception:
                results.figures[f"{name} error"] = traceback.format_exc()
                results.say(f"{name}: failed\n\n```\n{traceback.format_exc()}```")
            results.write(self._out)
        results.figures["elapsed_s"] = time.monotonic() - started_s
        results.write(self._out)

    def watch(self) -> None:
        """End everything when the time is well past, so that a part that hangs costs the others nothing."""
        timer = threading.Timer(self._seconds + _GRACE_S, self._stop)
        timer.daemon = True
        timer.start()

    def _stop(self) -> None:
        for results in self._results:
            if "elapsed_s" not in results.figures:
                results.figures["error"] = f"stopped after {self._seconds + _GRACE_S:g} s"
            results.write(self._out)
            print(results.markdown(), flush=True)
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(3)


def gpu_name(device: str) -> str | None:
    """What the driver calls the GPU; None for the CPU."""
    if device == "cpu":
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "a CUDA device"
