"""The Triton kernel that ends a last convolution and writes pixels.

For the worker process alone, and for CUDA (or Triton's interpreter).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _sum_taps(  # type: ignore[no-untyped-def]
    taps,
    bias,
    frames,
    height,
    width,
    channels,
    taps_channels,
    CAUSAL: tl.constexpr,
    PATCH: tl.constexpr,
    CLAMP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    frame = tl.program_id(1).to(tl.int64)
    positions = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    row = positions // width
    column = positions % width
    inside = positions < height * width
    value = (
        tl.zeros([BLOCK_P, BLOCK_C], tl.float32) + tl.load(bias + channel, mask=channel < channels, other=0.0)[None, :]
    )
    steps: tl.constexpr = 3 if CAUSAL else 1
    for step in tl.static_range(steps):
        tap_frame = tl.maximum(frame + step + 1 - steps, 0)
        first = step * (taps_channels // steps)
        for tap in tl.static_range(9):
            tap_row = row + tap // 3 - 1
            tap_column = column + tap % 3 - 1
            mask = inside
            if CAUSAL:
                tap_row = tl.minimum(tl.maximum(tap_row, 0), height - 1)
                tap_column = tl.minimum(tl.maximum(tap_column, 0), width - 1)
            else:
                mask = inside & (tap_row >= 0) & (tap_row < height) & (tap_column >= 0) & (tap_column < width)
            place = (tap_frame * height + tap_row) * width + tap_column
            at = place[:, None] * taps_channels + (first + tap * channels + channel)[None, :]
            value += tl.load(taps + at, mask=mask[:, None] & (channel < channels)[None, :], other=0.0).to(tl.float32)
    if CLAMP:
        value = tl.minimum(tl.maximum(value, -1.0), 1.0)
    colour = channel // (PATCH * PATCH)
    across = (channel // PATCH) % PATCH
    down = channel % PATCH
    out_row = row[:, None] * PATCH + down[None, :]
    out_column = column[:, None] * PATCH + across[None, :]
    colours = channels // (PATCH * PATCH)
    at = ((frame * colours + colour)[None, :] * height * PATCH + out_row) * (width * PATCH) + out_column
    tl.store(frames + at, value.to(frames.dtype.element_ty), mask=inside[:, None] & (channel < channels)[None, :])


def sum_taps(taps: Tensor, bias: Tensor, frames: Tensor, patch: int, *, clamp: bool, causal: bool = False) -> None:
    """End a 3x3 convolution to few channels whose taps were computed as channels, and lay out pixels.

    Args:
        taps: `[T, h, w, N]`: for tap `k` (row by row) and channel `c` its products summed over the input's channels and
            time, at `k * C + c`.
        bias: `[C] float32`.
        frames: `[T, C / patch**2, patch * h, patch * w]`, written.
        patch: pixels of a position, each way.
        clamp: to `[-1, 1]`.
        causal: taps are `[T, h, w, 3 * N]`, of a 3x3x3 convolution: those of two frames before, of the one before, and
            of the frame itself. What lies outside the frames is what is nearest, not zeros.
    """
    num_frames, height, width, taps_channels = taps.shape
    channels = bias.shape[0]
    block_p = 128
    _sum_taps[(triton.cdiv(height * width, block_p), num_frames)](
        taps,
        bias,
        frames,
        height,
        width,
        channels,
        taps_channels,
        CAUSAL=causal,
        PATCH=patch,
        CLAMP=clamp,
        BLOCK_P=block_p,
        BLOCK_C=triton.next_power_of_2(channels),
        num_warps=4,
    )
