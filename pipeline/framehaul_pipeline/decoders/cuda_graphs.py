"""Chunks recorded as CUDA graphs: all of a chunk's kernels are launched as one, so the launch thread idles.

For the worker process alone. A graph belongs to one shape of input. All graphs of a decoder share the memory that they
work in, for no two of them run at once. What one of them has freed serves the next that is recorded, if it is large
enough: so record the largest first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""From inputs to outputs; all its work is on the current stream of the device, or on streams that wait for it."""


@dataclass(slots=True, eq=False)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


class CudaGraphs:
    """The recorded chunks of one decoder."""

    def __init__(self, device: torch.device) -> None:
        """Start without any."""
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._recorded: dict[Hashable, _Recorded] = {}

    def forget(self) -> None:
        """Drop all that was recorded, and give its memory back."""
        self._recorded.clear()
        torch.cuda.empty_cache()

    def __contains__(self, key: Hashable) -> bool:
        """Whether a chunk of this kind was recorded."""
        return key in self._recorded

    def record(self, key: Hashable, inputs: Sequence[Tensor], step: Step) -> None:
        """Record `step`, which ran with inputs of these shapes before, without running it.

        Args:
            key: says which later chunks are the same.
            inputs: shapes, dtypes and strides are what counts.
            step: what is recorded.

        Raises:
            torch.OutOfMemoryError: the device has no room for what it allocates; nothing is kept then.
        """
        if not self._recorded:  # a pool ends with the last graph that has it
            self._pool = torch.cuda.graph_pool_handle()
        static = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        # It empties the allocator's cache first: nothing can be taken from there while a graph is recorded. Other
        # threads wait for events of theirs in the meantime.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = step(static)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._recorded[key] = _Recorded(graph, static, outputs)

    def run(self, key: Hashable, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Run a chunk on the current stream; the outputs are overwritten by the next one."""
        recorded = self._recorded[key]
        for static, tensor in zip(recorded.inputs, inputs, strict=True):
            static.copy_(tensor)
        recorded.graph.replay()
        return recorded.outputs
