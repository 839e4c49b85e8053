"""Triton kernels between the convolutions of the TAEHV family, each in one pass over memory.

For the worker process alone, and for CUDA (or Triton's interpreter). Tensors are contiguous with channels last,
`[T, H, W, C]`. *Corners* are `[T, h + shared, w + shared, 4, n, C]`: of each cell of a picture half as high and half as
wide, the pixels of its four corners, upper left first, in `n` frames. Where 2x2 convolutions gave them, `shared` is 1
and a corner lies one row further down if it is a lower one, one column further right if it is a right one.

Kernels have no annotations: Triton would evaluate them.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS: Final = 1024
_PIXELS: Final = 128


def pair(x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Each frame with the one before it, and the last frame.

    Args:
        x: `[T, H, W, C]`.
        last: `[1, H, W, C]`, the frame before the first.

    Returns:
        `[T, H, W, 2 * C]` and `[1, H, W, C]`.
    """
    count, height, width, channels = x.shape
    pairs = x.new_empty(count, height, width, 2 * channels)
    kept = torch.empty_like(last)
    size = height * width * channels
    _pair[(triton.cdiv(size, _ELEMENTS), count)](x, last, pairs, kept, size, channels, count, _ELEMENTS)
    return pairs, kept


def spread(corners: Tensor, shared: int) -> Tensor:
    """Put corners where they belong: `[T, h + shared, w + shared, 4, n, C]` to `[T * n, 2 * h, 2 * w, C]`."""
    count, rows, columns, _, copies, channels = corners.shape
    height, width = 2 * (rows - shared), 2 * (columns - shared)
    out = corners.new_empty(count * copies, height, width, channels)
    grid = (triton.cdiv(width * channels, _ELEMENTS), height, count * copies)
    _spread[grid](corners, out, rows, columns, width, copies, channels, shared, _ELEMENTS)
    return out


def sum_taps(products: Tensor, bias: Tensor, patch_size: int, shared: int) -> Tensor:
    """The last step of a 3x3 convolution over corners: each pixel's sum over its neighbours' products.

    Args:
        products: corners times the convolution's weights, `[T, h + shared, w + shared, 4, n, K]`, where the first
            `27 * patch_size ** 2` of K are the window's places, row by row, and for each the colours' patches.
        bias: `[3 * patch_size ** 2]`.
        patch_size: pixels that a place of the picture gives each way.
        shared: see above.

    Returns:
        Frames `[T * n, 3, 2 * h * patch_size, 2 * w * patch_size]`.
    """
    count, rows, columns, _, copies, depth = products.shape
    height, width = 2 * (rows - shared), 2 * (columns - shared)
    out = products.new_empty(count * copies, 3, height * patch_size, width * patch_size)
    grid = (triton.cdiv(width, _PIXELS), height, count * copies)
    _sum_taps[grid](
        products, bias, out, rows, columns, height, width, copies, depth, shared, patch_size, 3 * patch_size**2, _PIXELS
    )
    return out


@triton.jit
def _pair(x, last, pairs, kept, size, channels, count, ELEMENTS: tl.constexpr):
    at = tl.program_id(0) * ELEMENTS + tl.arange(0, ELEMENTS)
    frame = tl.program_id(1).to(tl.int64)
    mask = at < size
    value = tl.load(x + frame * size + at, mask=mask)
    target = at // channels * 2 * channels + at % channels
    tl.store(pairs + frame * 2 * size + target, value, mask=mask)
    if frame + 1 < count:
        tl.store(pairs + (frame + 1) * 2 * size + channels + target, value, mask=mask)
    else:
        tl.store(kept + at, value, mask=mask)
    if frame == 0:
        before = tl.load(last + at, mask=mask)
        tl.store(pairs + channels + target, before, mask=mask)


@triton.jit
def _spread(corners, out, rows, columns, width, copies, channels, shared, ELEMENTS: tl.constexpr):
    at = tl.program_id(0) * ELEMENTS + tl.arange(0, ELEMENTS)
    y, frame = tl.program_id(1), tl.program_id(2)
    x, channel = at // channels, at % channels
    lower, right = y % 2, x % 2
    cell = (frame // copies * rows + y // 2 + lower * shared).to(tl.int64) * columns + x // 2 + right * shared
    source = ((cell * 4 + 2 * lower + right) * copies + frame % copies) * channels + channel
    mask = x < width
    target = (frame.to(tl.int64) * tl.num_programs(1) + y) * width * channels + at
    tl.store(out + target, tl.load(corners + source, mask=mask), mask=mask)


@triton.jit
def _sum_taps(
    products, bias, out, rows, columns, height, width, copies, depth, shared,
    PATCH: tl.constexpr, COLOURS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    row, frame = tl.program_id(1), tl.program_id(2)
    for colour in tl.static_range(COLOURS):
        value = tl.zeros((PIXELS,), tl.float32) + tl.load(bias + colour).to(tl.float32)
        for tap in tl.static_range(9):
            y = row + tap // 3 - 1 + tl.zeros((PIXELS,), tl.int32)
            x = column + tap % 3 - 1
            lower, right = y % 2, x % 2
            cell = (frame // copies * rows + y // 2 + lower * shared).to(tl.int64) * columns + x // 2 + right * shared
            source = ((cell * 4 + 2 * lower + right) * copies + frame % copies) * depth + tap * COLOURS + colour
            mask = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            value += tl.load(products + source, mask=mask, other=0.0).to(tl.float32)
        plane = colour // (PATCH * PATCH)
        y_out = row * PATCH + colour // PATCH % PATCH
        target = ((frame.to(tl.int64) * 3 + plane) * height * PATCH + y_out) * width * PATCH
        target += column * PATCH + colour % PATCH
        tl.store(out + target, value.to(out.dtype.element_ty), mask=column < width)
