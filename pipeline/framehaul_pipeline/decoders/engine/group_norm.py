"""Triton kernels for a group norm over pictures with channels last: one pass that adds and measures, one that scales.

For the worker process alone, and for CUDA (or Triton's interpreter). The first pass adds bias and residual, keeps the
sums where they are needed, and sums each channel's deviations from its first position's value, so that a mean far from
zero costs no precision. What a picture gives depends on its size alone, never on the pictures beside it.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from framehaul_pipeline.decoders.engine.pending import Layout, Pending
from framehaul_pipeline.decoders.engine.weights import Dtypes

_ELEMENTS_PER_PROGRAM: Final = 4096
_MAX_PROGRAMS: Final = 1024
"""That measure one picture: enough to fill a device, few enough to add up quickly."""
_PROGRAMS_AT_ONCE: Final = 128


@triton.jit  # type: ignore[untyped-decorator]
def _value(  # type: ignore[no-untyped-def]
    source,
    bias,
    residual,
    frame,
    positions,
    num_positions,
    width,
    channels,
    PHASES: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    channel = tl.arange(0, BLOCK_C)
    mask = (positions < num_positions)[:, None] & (channel < channels)[None, :]
    offsets = frame * num_positions * channels + positions[:, None] * channels + channel[None, :]
    if PHASES:
        row = positions // width
        column = positions % width
        small = width // 2 + 1
        a = row % 2
        b = column % 2
        place = (row // 2 + a) * small + column // 2 + b
        size = ((num_positions // width) // 2 + 1) * small * 4 * channels
        at = frame * size + place[:, None] * (4 * channels) + ((2 * a + b) * channels)[:, None] + channel[None, :]
        value = tl.load(source + at, mask=mask, other=0.0).to(tl.float32)
    else:
        value = tl.load(source + offsets, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + channel, mask=channel < channels, other=0.0)[None, :]
    if RESIDUAL:
        value += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
    return value, offsets, mask


@triton.jit  # type: ignore[untyped-decorator]
def _measure(  # type: ignore[no-untyped-def]
    source,
    bias,
    residual,
    sums,
    pivots,
    partials,
    num_positions,
    width,
    channels,
    steps,
    PHASES: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    frame = tl.program_id(1).to(tl.int64)
    program = tl.program_id(0)
    num_programs = tl.num_programs(0)
    channel = tl.arange(0, BLOCK_C)
    inside = channel < channels
    first = tl.zeros([1], tl.int32)
    pivot, _, _ = _value(
        source, bias, residual, frame, first, num_positions, width, channels, PHASES, BIAS, RESIDUAL, BLOCK_C
    )
    once = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    twice = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for step in range(0, steps):
        positions = (program + step * num_programs) * BLOCK_P + tl.arange(0, BLOCK_P)
        value, offsets, mask = _value(
            source, bias, residual, frame, positions, num_positions, width, channels, PHASES, BIAS, RESIDUAL, BLOCK_C
        )
        if SUMS:
            tl.store(sums + offsets, value.to(sums.dtype.element_ty), mask=mask)
        deviation = tl.where(mask, value - pivot, 0.0)
        once += deviation
        twice += deviation * deviation
    at = partials + (frame * num_programs + program) * 2 * channels + channel
    tl.store(at, tl.sum(once, axis=0), mask=inside)
    tl.store(at + channels, tl.sum(twice, axis=0), mask=inside)
    if program == 0:
        tl.store(pivots + frame * channels + channel, tl.sum(pivot, axis=0), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _conclude(  # type: ignore[no-untyped-def]
    pivots,
    partials,
    gamma,
    beta,
    bias,
    affine,
    num_positions,
    num_programs,
    channels,
    width,
    eps,
    BIAS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    frame = tl.program_id(1).to(tl.int64)
    place = tl.arange(0, BLOCK_C)
    inside = place < width
    channel = tl.program_id(0) * width + place
    once = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    twice = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in range(0, num_programs, BLOCK_R):
        program = start + tl.arange(0, BLOCK_R)
        mask = (program < num_programs)[:, None] & inside[None, :]
        at = partials + (frame * num_programs + program)[:, None] * 2 * channels + channel[None, :]
        once += tl.load(at, mask=mask, other=0.0)
        twice += tl.load(at + channels, mask=mask, other=0.0)
    count = num_positions.to(tl.float32)
    deviation = tl.sum(once, axis=0) / count
    squares = tl.sum(twice, axis=0) - count * deviation * deviation
    means = tl.load(pivots + frame * channels + channel, mask=inside, other=0.0) + deviation
    mean = tl.sum(tl.where(inside, means, 0.0), axis=0) / width
    apart = tl.where(inside, means - mean, 0.0)
    variance = (tl.sum(squares, axis=0) + count * tl.sum(apart * apart, axis=0)) / (count * width)
    scale = tl.load(gamma + channel, mask=inside, other=0.0) / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    offset = -mean
    if BIAS:
        offset += tl.load(bias + channel, mask=inside, other=0.0)
    shift = tl.load(beta + channel, mask=inside, other=0.0) + offset * scale
    tl.store(affine + frame * 2 * channels + channel, scale, mask=inside)
    tl.store(affine + (frame * 2 + 1) * channels + channel, shift, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _scale(  # type: ignore[no-untyped-def]
    source,
    affine,
    target,
    num_positions,
    channels,
    SILU: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    frame = tl.program_id(1).to(tl.int64)
    positions = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    inside = channel < channels
    mask = (positions < num_positions)[:, None] & inside[None, :]
    offsets = frame * num_positions * channels + positions[:, None] * channels + channel[None, :]
    scale = tl.load(affine + frame * 2 * channels + channel, mask=inside, other=0.0)
    shift = tl.load(affine + (frame * 2 + 1) * channels + channel, mask=inside, other=0.0)
    value = tl.load(source + offsets, mask=mask, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    tl.store(target + offsets, value.to(target.dtype.element_ty), mask=mask)


class GroupNorm:
    """A group norm's weights, `[C] float32`."""

    def __init__(self, norm: torch.nn.GroupNorm) -> None:
        """Take them from the library's module."""
        self._gamma = norm.weight.float().contiguous()
        self._beta = norm.bias.float().contiguous()
        self._groups = norm.num_groups
        self._eps = norm.eps
        self.largest_gamma = norm.weight.abs().max().item()
        self.beta = self._beta
        self._largest_beta = norm.bias.abs().max().item()

    def bound(self, num_positions: int) -> float:
        """The largest magnitude of what comes out for a picture of this many positions, whatever goes in."""
        num_values = num_positions * len(self._gamma) // self._groups
        largest: float = self.largest_gamma * num_values**0.5 + self._largest_beta
        return largest

    def run(self, pending: Pending, dtypes: Dtypes, *, silu: bool, sums: bool = False) -> tuple[Tensor | None, Tensor]:
        """Normalise and activate frames.

        Args:
            pending: read once.
            dtypes: of what comes out.
            silu: whether to activate.
            sums: whether the frames themselves are needed too.

        Returns:
            The frames themselves, if `sums`, and their normalised form, `[T, H, W, C]`.
        """
        settled, plain = pending.settled, pending.layout is Layout.FRAMES and pending.residual is None
        # A bias alone is no reason to write the sums down: the second pass adds it again.
        keep = not plain or (sums and not settled)
        bias = None if keep else pending.bias
        source, kept, pivots, partials = _add_and_measure(pending, dtypes.sums, keep=keep)
        num_frames, height, width, channels = pending.shape
        affine = pivots.new_empty(num_frames, 2, channels)
        per_group = channels // self._groups
        _conclude[(self._groups, num_frames)](
            pivots,
            partials,
            self._gamma,
            self._beta,
            pivots if bias is None else bias,
            affine,
            height * width,
            partials.shape[1],
            channels,
            per_group,
            self._eps,
            BIAS=bias is not None,
            BLOCK_R=_PROGRAMS_AT_ONCE,
            BLOCK_C=triton.next_power_of_2(per_group),
            num_warps=4,
        )
        frames = source if kept is None else kept
        del source
        target = torch.empty_like(frames, dtype=dtypes.bounded)
        block_p, block_c = _blocks(channels)
        _scale[(triton.cdiv(height * width, block_p), num_frames)](
            frames,
            affine,
            target,
            height * width,
            channels,
            SILU=silu,
            BLOCK_P=block_p,
            BLOCK_C=block_c,
            num_warps=4,
        )
        return frames if sums else None, target


def settle(pending: Pending, dtype: torch.dtype) -> Tensor:
    """The frames themselves, `[T, H, W, C]`."""
    if pending.settled:
        return pending.take()[0]
    kept = _add_and_measure(pending, dtype, keep=True)[1]
    assert kept is not None
    return kept


def _add_and_measure(
    pending: Pending, dtype: torch.dtype, *, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """The source, the sums if they are kept, a value of each channel `[T, C]`, and what adds up to its moments."""
    num_frames, height, width, channels = pending.shape
    layout, bias = pending.layout, pending.bias
    source, residual = pending.take()
    kept = source.new_empty(pending.shape, dtype=dtype) if keep else None
    block_p, block_c = _blocks(channels)
    num_blocks = triton.cdiv(height * width, block_p)
    num_programs = min(num_blocks, _MAX_PROGRAMS)
    pivots = source.new_empty(num_frames, channels, dtype=torch.float32)
    partials = source.new_empty(num_frames, num_programs, 2, channels, dtype=torch.float32)
    _measure[(num_programs, num_frames)](
        source,
        source if bias is None else bias,
        source if residual is None else residual,
        source if kept is None else kept,
        pivots,
        partials,
        height * width,
        width,
        channels,
        triton.cdiv(num_blocks, num_programs),
        PHASES=layout is Layout.PHASES,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        SUMS=kept is not None,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=4,
    )
    return source, kept, pivots, partials


def _blocks(channels: int) -> tuple[int, int]:
    block_c = triton.next_power_of_2(channels)
    return max(1, _ELEMENTS_PER_PROGRAM // block_c), block_c
