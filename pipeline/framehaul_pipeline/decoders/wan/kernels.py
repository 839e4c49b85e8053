"""Triton kernels between Wan's convolutions: all that happens to a position's channels in one pass over memory.

For the worker process alone, and for CUDA (or Triton's interpreter). Tensors are contiguous with channels last:
frames are `[T, H, W, C]`, and a position is one of the `H * W` places of a frame.

Planes: a convolution of temporal kernel 3 over pairs of frames takes 4 multiplications in time instead of 6 when its
input and output are kept as sums and differences. Source: Winograd's F(2, 3), in A. Lavin and S. Gray, "Fast
algorithms for convolutional neural networks", arXiv:1509.09308, section 4.1. Planes are `[4, T / 2, H, W, C]`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from framehaul_pipeline.decoders.engine.pending import Layout

_FRAMES = tl.constexpr(int(Layout.FRAMES))
_PLANES = tl.constexpr(int(Layout.PLANES))
_ELEMENTS_PER_PROGRAM = 2048


@triton.jit  # type: ignore[untyped-decorator]
def _value(source, residual, bias, frame, offsets, phases, mask, size, LAYOUT: tl.constexpr, RESIDUAL: tl.constexpr):  # type: ignore[no-untyped-def]
    if LAYOUT == _FRAMES:
        value = tl.load(source + frame * size + offsets, mask=mask, other=0.0).to(tl.float32) + bias
    else:
        value = tl.load(source + phases, mask=mask, other=0.0).to(tl.float32) + bias
    if RESIDUAL:
        value += tl.load(residual + frame * size + offsets, mask=mask, other=0.0).to(tl.float32)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def _activate(value, gamma, dtype: tl.constexpr, NORM: tl.constexpr, SILU: tl.constexpr):  # type: ignore[no-untyped-def]
    """RMS norm and SiLU; rounded to the tensors' type, so that a frame's values don't depend on the chunk it is in."""
    if NORM:
        length = tl.sqrt(tl.sum(value * value, axis=1))
        value = value / tl.maximum(length, 1e-12)[:, None] * gamma
    if SILU:
        value = value * tl.sigmoid(value)
    return value.to(dtype).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _fuse(  # type: ignore[no-untyped-def]
    source,
    bias,
    residual,
    sums,
    gamma,
    state,
    state_offset,
    target,
    num_frames,
    num_positions,
    width,
    channels,
    LAYOUT: tl.constexpr,
    TARGET_LAYOUT: tl.constexpr,
    PAIRS: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SUMS: tl.constexpr,
    TARGET: tl.constexpr,
    NORM: tl.constexpr,
    SILU: tl.constexpr,
    HISTORY: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    dtype: tl.constexpr = target.dtype.element_ty
    sums_dtype: tl.constexpr = sums.dtype.element_ty
    positions = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    mask = (positions < num_positions)[:, None] & (channel < channels)[None, :]
    offsets = positions[:, None] * channels + channel[None, :]
    size = num_positions.to(tl.int64) * channels
    added = tl.zeros([1, BLOCK_C], tl.float32)
    if BIAS:
        added = tl.load(bias + channel, mask=channel < channels, other=0.0)[None, :]
    scale = tl.zeros([1, BLOCK_C], tl.float32)
    if NORM:
        scale = tl.load(gamma + channel, mask=channel < channels, other=0.0)[None, :]
    phases = offsets
    phases_size = size
    if LAYOUT == 2:
        row = positions // width
        column = positions % width
        small = width // 2 + 1
        a = row % 2
        b = column % 2
        place = (row // 2 + a) * small + column // 2 + b
        phases = place[:, None] * (4 * channels) + ((2 * a + b) * channels)[:, None] + channel[None, :]
        phases_size = ((num_positions // width) // 2 + 1).to(tl.int64) * small * 4 * channels
    before = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    last = before
    history = target
    if HISTORY:
        history = tl.load(state).to(tl.pointer_type(dtype)) + state_offset
        before = tl.load(history + offsets, mask=mask, other=0.0).to(tl.float32)
        last = tl.load(history + size + offsets, mask=mask, other=0.0).to(tl.float32)
        if TARGET_LAYOUT == _FRAMES:
            tl.store(target + offsets, before.to(dtype), mask=mask)
            tl.store(target + size + offsets, last.to(dtype), mask=mask)
            target += 2 * size
    if PAIRS:
        plane = (num_frames // 2) * size
        for pair in range(0, num_frames // 2):
            if LAYOUT == _PLANES:
                at = pair * size + offsets
                m0 = tl.load(source + at, mask=mask, other=0.0).to(tl.float32)
                m1 = tl.load(source + plane + at, mask=mask, other=0.0).to(tl.float32)
                m2 = tl.load(source + 2 * plane + at, mask=mask, other=0.0).to(tl.float32)
                m3 = tl.load(source + 3 * plane + at, mask=mask, other=0.0).to(tl.float32)
                even = m0 + m1 + m2 + added
                odd = m1 - m2 - m3 + added
                if RESIDUAL:
                    even += tl.load(residual + 2 * pair * size + offsets, mask=mask, other=0.0).to(tl.float32)
                    odd += tl.load(residual + (2 * pair + 1) * size + offsets, mask=mask, other=0.0).to(tl.float32)
            else:
                even = _value(
                    source,
                    residual,
                    added,
                    2 * pair,
                    offsets,
                    2 * pair * phases_size + phases,
                    mask,
                    size,
                    LAYOUT,
                    RESIDUAL,
                )
                odd = _value(
                    source,
                    residual,
                    added,
                    2 * pair + 1,
                    offsets,
                    (2 * pair + 1) * phases_size + phases,
                    mask,
                    size,
                    LAYOUT,
                    RESIDUAL,
                )
            if SUMS:
                tl.store(sums + 2 * pair * size + offsets, even.to(sums_dtype), mask=mask)
                tl.store(sums + (2 * pair + 1) * size + offsets, odd.to(sums_dtype), mask=mask)
            if TARGET:
                even = _activate(even, scale, dtype, NORM, SILU)
                odd = _activate(odd, scale, dtype, NORM, SILU)
                if TARGET_LAYOUT == _PLANES:
                    at = pair * size + offsets
                    tl.store(target + at, (before - even).to(dtype), mask=mask)
                    tl.store(target + plane + at, (last + even).to(dtype), mask=mask)
                    tl.store(target + 2 * plane + at, (even - last).to(dtype), mask=mask)
                    tl.store(target + 3 * plane + at, (last - odd).to(dtype), mask=mask)
                else:
                    tl.store(target + 2 * pair * size + offsets, even.to(dtype), mask=mask)
                    tl.store(target + (2 * pair + 1) * size + offsets, odd.to(dtype), mask=mask)
                before = even
                last = odd
    else:
        for frame in range(0, num_frames):
            value = _value(
                source, residual, added, frame, offsets, frame * phases_size + phases, mask, size, LAYOUT, RESIDUAL
            )
            if SUMS:
                tl.store(sums + frame * size + offsets, value.to(sums_dtype), mask=mask)
            if TARGET:
                value = _activate(value, scale, dtype, NORM, SILU)
                tl.store(target + frame * size + offsets, value.to(dtype), mask=mask)
                before = last
                last = value
    if HISTORY:
        tl.store(history + offsets, before.to(dtype), mask=mask)
        tl.store(history + size + offsets, last.to(dtype), mask=mask)


def fuse(
    source: Tensor,
    layout: Layout,
    *,
    num_frames: int,
    height: int,
    width: int,
    channels: int,
    bias: Tensor | None,
    residual: Tensor | None,
    sums: Tensor | None,
    target: Tensor | None,
    target_layout: Layout,
    gamma: Tensor | None,
    silu: bool,
    state: Tensor | None,
    state_offset: int,
) -> None:
    """Add bias and residual, normalise, activate, and lay out the next convolution's input.

    Args:
        source: frames in `layout`.
        layout: of `source`.
        num_frames: `T`.
        height: of the frames in positions.
        width: of the frames in positions.
        channels: `C`.
        bias: `[C] float32`, added to each position, or None.
        residual: `[T, H, W, C]`, added, or None.
        sums: `[T, H, W, C]` that takes source + bias + residual, or None.
        target: takes the activated sums, or None: `[T, H, W, C]`, or `[T + 2, H, W, C]` with the history in front when
            `state` is given, or planes.
        target_layout: FRAMES or PLANES.
        gamma: `[C] float32`, the norm's scale times `sqrt(C)`; None: no norm.
        silu: whether to activate.
        state: `[1] int64`, the address of the session's state; None: no history.
        state_offset: where in the state the history `[2, H, W, C]`, in the target's dtype, lies, in elements.
    """
    num_positions = height * width
    block_c = triton.next_power_of_2(channels)
    block_p = max(1, _ELEMENTS_PER_PROGRAM // block_c)
    pairs = Layout.PLANES in (layout, target_layout) or num_frames % 2 == 0
    absent = source
    _fuse[(triton.cdiv(num_positions, block_p),)](
        source,
        absent if bias is None else bias,
        absent if residual is None else residual,
        absent if sums is None else sums,
        absent if gamma is None else gamma,
        absent if state is None else state,
        state_offset,
        absent if target is None else target,
        num_frames,
        num_positions,
        width,
        channels,
        LAYOUT=int(layout),
        TARGET_LAYOUT=int(target_layout),
        PAIRS=pairs,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        SUMS=sums is not None,
        TARGET=target is not None,
        NORM=gamma is not None,
        SILU=silu,
        HISTORY=state is not None,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=4,
    )
