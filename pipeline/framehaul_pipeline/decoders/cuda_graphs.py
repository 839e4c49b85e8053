"""Chunks recorded as CUDA graphs: a whole chunk's kernels are launched as one, so the launch thread idles.

For the worker process alone. A graph belongs to one shape of input. What it allocates stays its own; all graphs of a
decoder share that memory, for no two of them run at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    latents: Tensor
    frames: Tensor


class CudaGraphs:
    """The recorded chunks of one decoder."""

    def __init__(self, device: torch.device) -> None:
        """Start without any."""
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._recorded: dict[Hashable, _Recorded] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Whether a chunk of this kind was recorded."""
        return key in self._recorded

    def record(self, key: Hashable, latents: Tensor, decode: Callable[[Tensor], Tensor]) -> None:
        """Record `decode`, which ran with `latents` of this shape before, without running it.

        Args:
            key: says which later chunks are the same.
            latents: `[T, C, h, w]`; the shape is what counts.
            decode: takes latents and gives frames; all its work is on the current stream of the device.
        """
        static = latents.clone()
        self._stream.wait_stream(torch.cuda.current_stream(latents.device))
        with torch.cuda.stream(self._stream):
            graph = torch.cuda.CUDAGraph()
            # Other threads wait for events of theirs in the meantime.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            frames = decode(static)
            graph.capture_end()
        torch.cuda.current_stream(latents.device).wait_stream(self._stream)
        self._recorded[key] = _Recorded(graph, static, frames)

    def run(self, key: Hashable, latents: Tensor) -> Tensor:
        """Decode a chunk on the current stream; the frames are overwritten by the next chunk."""
        recorded = self._recorded[key]
        recorded.latents.copy_(latents)
        recorded.graph.replay()
        return recorded.frames
