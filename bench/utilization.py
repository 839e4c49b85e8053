"""How busy the driver itself says the GPU is: a second opinion, coarser than the profiler's."""

from __future__ import annotations

import subprocess
import threading

from bench.harness import percentile


class Utilization:
    """Samples `nvidia-smi` in the background; says nothing where there is none."""

    def __init__(self) -> None:
        """Start idle."""
        self._samples: list[float] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Utilization:
        """Begin to sample, where there is a driver."""
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "250"]
        try:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
            )
        except OSError:
            return self
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        return self

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            first = line.split()[:1]
            if first and first[0].isdecimal():
                self._samples.append(float(first[0]) / 100.0)

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def median(self) -> float:
        """Median of the samples in the second half, NaN without any."""
        return percentile(self._samples[len(self._samples) // 2 :], 50)
