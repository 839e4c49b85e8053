"""Triton kernels between the convolutions of `tiny`: each is one pass over memory. For the worker process alone.

For CUDA, or Triton's interpreter. Tensors are contiguous frames with channels last, `[T, H, W, C]`. One compilation
serves all sizes of frames, so that no session waits for its own.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit(do_not_specialize=["size"])  # type: ignore[untyped-decorator]
def _add(x, y, bias, size, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    added = tl.load(bias + at % CHANNELS, mask=mask).to(tl.float32) + tl.load(y + at, mask=mask).to(tl.float32)
    total = tl.load(x + at, mask=mask).to(tl.float32) + added
    tl.store(x + at, total.to(x.dtype.element_ty), mask=mask)


def add_residual(x: Tensor, y: Tensor, bias: Tensor) -> None:
    """Add `y` and `bias` `[C]` to `x`, both `[T, H, W, C]`."""
    size = x.numel()
    _add[(triton.cdiv(size, _BLOCK),)](x, y, bias, size, CHANNELS=x.shape[-1], BLOCK=_BLOCK, num_warps=4)


@triton.jit(do_not_specialize=["size", "height", "width"])  # type: ignore[untyped-decorator]
def _spread(  # type: ignore[no-untyped-def]
    source, bias, out, size, height, width, STEPS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    channel = at % CHANNELS
    position = at // CHANNELS
    x = position % (2 * width)
    y = position // (2 * width) % (2 * height)
    frame = position // (4 * width * height)
    small = (frame // STEPS * height + y // 2) * width + x // 2
    group = ((frame % STEPS) * 2 + y % 2) * 2 + x % 2
    place = group * CHANNELS + channel
    value = tl.load(source + small * (4 * STEPS * CHANNELS) + place, mask=mask).to(tl.float32)
    value += tl.load(bias + place, mask=mask).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


def spread(source: Tensor, bias: Tensor, out: Tensor, steps: int) -> None:
    """Take channels apart: `[T, H, W, steps * 2 * 2 * C]`, with `bias` added, to `[T * steps, 2 * H, 2 * W, C]`."""
    _, height, width, _ = source.shape
    size = out.numel()
    grid = (triton.cdiv(size, _BLOCK),)
    _spread[grid](
        source, bias, out, size, height, width, STEPS=steps, CHANNELS=out.shape[-1], BLOCK=_BLOCK, num_warps=4
    )
