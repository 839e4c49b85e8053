"""The product's worker, with the benchmarks' decoders and notes of copies, kernels and device memory.

Started by `bench.server` in place of `framehaul_pipeline.worker.start`. One more thread obeys `control.Control`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from typing import Any

import torch

from bench.control import VARIABLE
from bench.decoders import load
from bench.profiling import DeviceProfiler
from framehaul_pipeline.worker import main as entry
from framehaul_pipeline.worker import start
from framehaul_pipeline.worker.launch import InFlight
from framehaul_pipeline.worker.worker import Worker

_copied: list[tuple[int, int, int]] = []
"""Of each chunk its first frame, its number of frames, and when its copy was seen done (CLOCK_MONOTONIC, ns)."""
_complete = Worker.complete


def _note_copied(worker: Worker, flight: InFlight) -> None:
    _complete(worker, flight)
    _copied.append((flight.chunk.first_frame, flight.chunk.num_frames, time.monotonic_ns()))


def _answer(path: str) -> None:
    profiler = DeviceProfiler()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        for command in connection.makefile("r"):
            try:
                answer = _obey(profiler, command.strip())
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            connection.sendall(json.dumps(answer).encode() + b"\n")


def _obey(profiler: DeviceProfiler, command: str) -> dict[str, Any]:
    if command == "start":
        profiler.start()
        return {}
    if command == "stop":
        return dict(profiler.stop())
    if command == "memory":
        on_cuda = torch.cuda.is_available()
        return {
            "allocated": torch.cuda.memory_allocated() if on_cuda else 0,
            "reserved": torch.cuda.memory_reserved() if on_cuda else 0,
        }
    taken = list(_copied)
    _copied.clear()
    return {"copied": taken}


def main() -> int:
    """Run the worker."""
    Worker.complete = _note_copied  # type: ignore[method-assign, assignment]
    entry.load_decoder = load  # type: ignore[attr-defined]
    if path := os.environ.get(VARIABLE):
        threading.Thread(target=_answer, args=(path,), daemon=True).start()
    return start.main()


if __name__ == "__main__":
    sys.exit(main())
