"""What decoders share that remember one frame a block, in tensors of their own. Imports torch: for the worker alone.

Tensors are time-major, `[T, C, H, W]` with channels last in memory, so that "the previous frame" is a slice of
dimension 0. Any chunking gives the whole clip's frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.cuda_graphs import CudaGraphs
from framehaul_pipeline.spec import DecoderSpec


class RecordedDecoder:
    """The part of the decoder contract that doesn't depend on the network; CUDA graphs run what was warmed up."""

    def __init__(self, spec: DecoderSpec, device: torch.device, dtype: torch.dtype) -> None:
        """Start without graphs."""
        self.spec = spec
        self.dtype = dtype
        self._device = device
        self._graphs = CudaGraphs(device) if device.type == "cuda" else None
        self._recording = False

    def _decode(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """From a chunk's latents and the state to frames and the new state."""
        raise NotImplementedError

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Within it, `step` records its chunks for later ones, on CUDA: the kernels are short, the gaps count."""
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def forget(self) -> None:
        """Drop what was recorded."""
        if self._graphs is not None:
            self._graphs.forget()

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """Take any number of latents: every partition gives the same frames."""
        del index, ended
        return max(0, min(available, wanted))

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to frames `[F, 3, H, W]`; the given state is left as it was."""
        inputs = [latents.contiguous(memory_format=torch.channels_last), *state]
        key = latents.shape
        if self._graphs is not None and key in self._graphs:
            frames, *new = self._graphs.run(key, inputs)
            return frames, [last.clone(memory_format=torch.channels_last) for last in new]  # the next run's is there
        frames, *new = self._decode(inputs)
        if self._graphs is not None and self._recording:
            self._graphs.record(key, inputs, self._decode)
        return frames, new

    def flush(self, state: State) -> Tensor | None:
        """Nothing is held back: these decoders look only at the past."""
        del state
        return None


def with_previous(x: Tensor, last: Tensor) -> Tensor:
    """`[T * B, 2 * C, H, W]`: each frame with the one before it. Made at once, not of a shifted copy of `x`.

    Args:
        x: `[T * B, C, H, W]`, with the batch running fastest.
        last: `[B, C, H, W]`, the frame before the chunk.
    """
    count, channels, height, width = x.shape
    batch = last.shape[0]
    shape = (count, 2 * channels, height, width)
    pairs = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pairs[:, :channels] = x
    pairs[:batch, channels:] = last
    pairs[batch:, channels:] = x[:-batch]
    return pairs
