"""Pooling in one pass, and unpooling by gathering.

To unpool, every voxel looks whether it was the largest of a window, and takes that window's value.

A window's largest voxel is kept as one byte, its place in the window, row by row. Where windows overlap a voxel may be
the largest of several; then the last of them counts, in raster order. That is what `max_unpool3d` does on the CPU; on
CUDA it writes from many threads at once, and whichever comes last counts. Pooling backwards would add them up.

Tensors are `[N, H, W, C]` in memory, where N counts frames of all clips. Kernels have no annotations: Triton would
evaluate them.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from framehaul_pipeline.saliency.windows import Windows

_COLUMNS: Final = 8
_CHANNELS: Final = 64


def largest(x: Tensor, space: Windows, time: Windows) -> Tensor:
    """The largest voxel of each window, `[B, T, H, W, C]`: windows of both, in space and in time."""
    batch, steps, height, width, channels = x.shape
    rows, columns, times = space.count(height), space.count(width), time.count(steps)
    out = x.new_empty(batch, times, rows, columns, channels)
    grid = (batch * times * rows, triton.cdiv(columns, _COLUMNS), triton.cdiv(channels, _CHANNELS))
    _largest[grid](x, out, steps, height, width, times, rows, columns, channels, *space, *time, _COLUMNS, _CHANNELS)
    return out


def places(x: Tensor, steps: int, windows: Windows) -> Tensor:
    """Where the largest voxels are, of each window over the largest of `steps` frames; the first of equal ones.

    Args:
        x: `[N, H, W, C]`.
        steps: consecutive frames of which the largest value counts; divides N.
        windows: those of the pool.

    Returns:
        uint8 `[N / steps, rows, columns, C]`: `row * size + column` within the window.
    """
    count, height, width, channels = x.shape
    rows, columns = windows.count(height), windows.count(width)
    out = torch.empty(count // steps, rows, columns, channels, dtype=torch.uint8, device=x.device)
    grid = (count // steps * rows, triton.cdiv(columns, _COLUMNS), triton.cdiv(channels, _CHANNELS))
    _places[grid](x, out, height, width, rows, columns, channels, steps, *windows, _COLUMNS, _CHANNELS)
    return out


def gather(pooled: Tensor, place: Tensor, height: int, width: int, windows: Windows) -> Tensor:
    """Values at the places that `places` found, and zeros elsewhere.

    Args:
        pooled: `[N, rows, columns, C]`.
        place: of the same shape.
        height: of the frames that were pooled.
        width: of them.
        windows: those of the pool.

    Returns:
        `[N, height, width, C]`.
    """
    count, rows, columns, channels = pooled.shape
    out = torch.empty(count, height, width, channels, dtype=pooled.dtype, device=pooled.device)
    grid = (count * height, triton.cdiv(width, _COLUMNS), triton.cdiv(channels, _CHANNELS))
    _gather[grid](pooled, place, out, height, width, rows, columns, channels, *windows, _COLUMNS, _CHANNELS)
    return out


@triton.jit
def _largest(
    x, out, steps, height, width, times, rows, columns, channels,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    STEPS: tl.constexpr, STEP_STRIDE: tl.constexpr, STEP_PADDING: tl.constexpr,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    row, frame = line % rows, line // rows
    moment, clip = frame % times, frame // times
    value = tl.full((COLUMNS, CHANNELS), float("-inf"), tl.float32)
    for dt in tl.static_range(STEPS):
        step = moment * STEP_STRIDE - STEP_PADDING + dt + tl.zeros((COLUMNS,), tl.int32)
        for dy in tl.static_range(SIZE):
            y = row * STRIDE - PADDING + dy + tl.zeros((COLUMNS,), tl.int32)
            for dx in tl.static_range(SIZE):
                at = column * STRIDE - PADDING + dx
                inside = (step >= 0) & (step < steps) & (y >= 0) & (y < height) & (at >= 0) & (at < width)
                mask = (inside & (column < columns))[:, None] & (channel < channels)[None, :]
                voxel = ((clip * steps + step) * height + y) * width + at
                pointers = x + voxel[:, None].to(tl.int64) * channels + channel[None, :]
                value = tl.maximum(value, tl.load(pointers, mask=mask, other=float("-inf")).to(tl.float32))
    mask = (column < columns)[:, None] & (channel < channels)[None, :]
    pointers = out + (line * columns + column)[:, None].to(tl.int64) * channels + channel[None, :]
    tl.store(pointers, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _places(
    x, out, height, width, rows, columns, channels,
    STEPS: tl.constexpr, SIZE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    row, frame = line % rows, line // rows
    largest = tl.full((COLUMNS, CHANNELS), float("-inf"), tl.float32)
    place = tl.zeros((COLUMNS, CHANNELS), tl.int32)
    for dy in tl.static_range(SIZE):
        y = row * STRIDE - PADDING + dy + tl.zeros((COLUMNS,), tl.int32)
        for dx in tl.static_range(SIZE):
            at = column * STRIDE - PADDING + dx
            inside = (y >= 0) & (y < height) & (at >= 0) & (at < width) & (column < columns)
            mask = inside[:, None] & (channel < channels)[None, :]
            value = tl.full((COLUMNS, CHANNELS), float("-inf"), tl.float32)
            for step in tl.static_range(STEPS):
                voxel = ((frame * STEPS + step) * height + y) * width + at
                pointers = x + voxel[:, None].to(tl.int64) * channels + channel[None, :]
                value = tl.maximum(value, tl.load(pointers, mask=mask, other=float("-inf")).to(tl.float32))
            larger = value > largest
            largest = tl.where(larger, value, largest)
            place = tl.where(larger, dy * SIZE + dx, place)
    mask = (column < columns)[:, None] & (channel < channels)[None, :]
    pointers = out + (line * columns + column)[:, None].to(tl.int64) * channels + channel[None, :]
    tl.store(pointers, place.to(tl.uint8), mask=mask)


@triton.jit
def _gather(
    pooled, place, out, height, width, rows, columns, channels,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    y, frame = line % height, line // height
    value = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    # A voxel lies in so many windows each way at most.
    WINDOWS: tl.constexpr = (SIZE + STRIDE - 1) // STRIDE
    for j in tl.static_range(WINDOWS):
        row = (y + PADDING) // STRIDE - (WINDOWS - 1 - j) + tl.zeros((COLUMNS,), tl.int32)
        dy = y + PADDING - row * STRIDE
        for i in tl.static_range(WINDOWS):
            at = (column + PADDING) // STRIDE - (WINDOWS - 1 - i)
            dx = column + PADDING - at * STRIDE
            inside = (row >= 0) & (row < rows) & (dy < SIZE) & (at >= 0) & (at < columns) & (dx < SIZE)
            mask = (inside & (column < width))[:, None] & (channel < channels)[None, :]
            window = ((frame * rows + row) * columns + at)[:, None].to(tl.int64) * channels + channel[None, :]
            mine = tl.load(place + window, mask=mask, other=255).to(tl.int32) == (dy * SIZE + dx)[:, None]
            taken = tl.load(pooled + window, mask=mask & mine, other=0.0).to(tl.float32)
            value = tl.where(mask & mine, taken, value)
    mask = (column < width)[:, None] & (channel < channels)[None, :]
    pointers = out + (line * width + column)[:, None].to(tl.int64) * channels + channel[None, :]
    tl.store(pointers, value.to(out.dtype.element_ty), mask=mask)
