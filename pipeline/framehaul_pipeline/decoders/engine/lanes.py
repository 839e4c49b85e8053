"""Streams beside the current one, for kernels that don't depend on each other: one fills what another leaves idle.

For the worker process alone; on the CPU all is one lane.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Self

import torch

NUM_LANES: Final = 2


class Lanes:
    """A fork of the current stream; leaving it joins."""

    def __init__(self, device: torch.device) -> None:
        """Make the other streams."""
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(NUM_LANES - 1)] if device.type == "cuda" else []

    def __enter__(self) -> Self:
        """Let the other streams wait for the current one."""
        for stream in self._streams:
            stream.wait_stream(torch.cuda.current_stream(self._device))
        return self

    def __exit__(self, *_: object) -> None:
        """Let the current stream wait for the others."""
        for stream in self._streams:
            torch.cuda.current_stream(self._device).wait_stream(stream)

    def on(self, lane: int) -> AbstractContextManager[object]:
        """Within it, work goes to a lane; lane 0 is the stream that was current."""
        if lane == 0 or not self._streams:
            return nullcontext()
        return torch.cuda.stream(self._streams[lane - 1])
