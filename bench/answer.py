"""The answering end of `control`, in the worker: notes of copies, kernels and device memory.

Loading `bench-free` starts it, so a server whose worker is to be asked serves that beside what is measured.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch

from bench.control import VARIABLE
from bench.profiling import DeviceProfiler
from framehaul_pipeline.worker.worker import Worker

_copied: list[tuple[int, int, int]] = []
"""Of each chunk its first frame, its number of frames, and when its copy was seen done (CLOCK_MONOTONIC, ns)."""


def start() -> None:
    """Answer the process that the environment names, if it does; called before the worker starts its threads."""
    if path := os.environ.get(VARIABLE):
        threading.Thread(target=_answer, args=(path,), daemon=True).start()
        threading.setprofile(_note_copied)


def _note_copied(frame: FrameType, event: str, _: object) -> None:
    """Watch the completion thread, which runs little Python; no other one is slowed down."""
    if threading.current_thread().name != "completion":
        sys.setprofile(None)
    elif event == "return" and frame.f_code is Worker.complete.__code__:
        chunk = frame.f_locals["flight"].chunk
        _copied.append((chunk.first_frame, chunk.num_frames, time.monotonic_ns()))


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
