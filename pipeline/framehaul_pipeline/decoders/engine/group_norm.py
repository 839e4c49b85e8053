"""Triton kernels for a group norm over frames with channels last: one pass that adds and measures, one that scales.

For the worker process alone, and for CUDA (or Triton's interpreter). The first pass adds bias and residual, keeps the
sums where they are needed, and sums each channel's deviations from its first position's value, so that a mean far from
zero costs no precision. The second lays out the next convolution's input. A norm spans a picture or all frames of a
clip. What these give depends on their size alone, never on the pictures beside them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from framehaul_pipeline.decoders.engine.pending import Layout, Pending
from framehaul_pipeline.decoders.engine.weights import Dtypes

_ELEMENTS_PER_PROGRAM: Final = 4096
_MAX_PROGRAMS: Final = 1024
"""That measure what a norm spans: enough to fill a device, few enough to add up quickly."""
_PROGRAMS_AT_ONCE: Final = 128
_NUM_PHASES: Final = {Layout.FRAMES: 0, Layout.PHASES: 4, Layout.TIME_PHASES: 8}
"""That a position of a small frame holds."""


class Edges(NamedTuple):
    """What a convolution's input has around its frames: copies of those at the edge, as `replicate` padding makes."""

    frames: int = 0
    """In front of the first."""
    cells: int = 0
    """On each side of rows and columns."""


NO_EDGES: Final = Edges()


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
        phase = 2 * a + b
        step = frame
        if PHASES == 8:
            step = (frame + 1) // 2
            phase += (frame % 2 * 4).to(tl.int32)
        size = ((num_positions // width) // 2 + 1) * small * PHASES * channels
        at = step * size + place[:, None] * (PHASES * channels) + (phase * channels)[:, None] + channel[None, :]
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
    span,
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
    begin = frame // span * span
    first = tl.zeros([1], tl.int32)
    pivot, _, _ = _value(
        source, bias, residual, begin, first, num_positions, width, channels, PHASES, BIAS, RESIDUAL, BLOCK_C
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
    if (program == 0) & (frame == begin):
        tl.store(pivots + frame // span * channels + channel, tl.sum(pivot, axis=0), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _conclude(  # type: ignore[no-untyped-def]
    pivots,
    partials,
    gamma,
    beta,
    affine,
    num_values,
    num_programs,
    channels,
    width,
    eps,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    norm = tl.program_id(1).to(tl.int64)
    place = tl.arange(0, BLOCK_C)
    inside = place < width
    channel = tl.program_id(0) * width + place
    once = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    twice = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in range(0, num_programs, BLOCK_R):
        program = start + tl.arange(0, BLOCK_R)
        mask = (program < num_programs)[:, None] & inside[None, :]
        at = partials + (norm * num_programs + program)[:, None] * 2 * channels + channel[None, :]
        once += tl.load(at, mask=mask, other=0.0)
        twice += tl.load(at + channels, mask=mask, other=0.0)
    count = num_values.to(tl.float32)
    deviation = tl.sum(once, axis=0) / count
    squares = tl.sum(twice, axis=0) - count * deviation * deviation
    means = tl.load(pivots + norm * channels + channel, mask=inside, other=0.0) + deviation
    mean = tl.sum(tl.where(inside, means, 0.0), axis=0) / width
    apart = tl.where(inside, means - mean, 0.0)
    variance = (tl.sum(squares, axis=0) + count * tl.sum(apart * apart, axis=0)) / (count * width)
    scale = tl.load(gamma + channel, mask=inside, other=0.0) / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    shift = tl.load(beta + channel, mask=inside, other=0.0) - mean * scale
    tl.store(affine + norm * 2 * channels + channel, scale, mask=inside)
    tl.store(affine + (norm * 2 + 1) * channels + channel, shift, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _lay_out(  # type: ignore[no-untyped-def]
    source,
    bias,
    residual,
    affine,
    target,
    span,
    num_positions,
    num_cells,
    width,
    channels,
    PHASES: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    NORM: tl.constexpr,
    SILU: tl.constexpr,
    EDGE_FRAMES: tl.constexpr,
    EDGE_CELLS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Write the target's `num_cells` a frame, each from the position nearest to it."""
    target_frame = tl.program_id(1).to(tl.int64)
    cells = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    inside = channel < channels
    frame = tl.maximum(target_frame - EDGE_FRAMES, 0)
    positions = cells
    if EDGE_CELLS:
        wide = width + 2 * EDGE_CELLS
        row = tl.minimum(tl.maximum(cells // wide - EDGE_CELLS, 0), num_positions // width - 1)
        column = tl.minimum(tl.maximum(cells % wide - EDGE_CELLS, 0), width - 1)
        positions = row * width + column
    value, _, _ = _value(
        source, bias, residual, frame, positions, num_positions, width, channels, PHASES, BIAS, RESIDUAL, BLOCK_C
    )
    if NORM:
        at = affine + frame // span * 2 * channels + channel
        scale = tl.load(at, mask=inside, other=0.0)
        shift = tl.load(at + channels, mask=inside, other=0.0)
        value = value * scale[None, :] + shift[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    at = target_frame * num_cells * channels + cells[:, None] * channels + channel[None, :]
    tl.store(target + at, value.to(target.dtype.element_ty), mask=(cells < num_cells)[:, None] & inside[None, :])


class GroupNorm:
    """A group norm's weights, `[C] float32`."""

    def __init__(self, norm: torch.nn.GroupNorm, *, over_time: bool = False) -> None:
        """Take them from the library's module; `over_time`: it spans all frames, not each by itself."""
        self._gamma = norm.weight.float().contiguous()
        self.beta = norm.bias.float().contiguous()
        self._groups = norm.num_groups
        self._eps = norm.eps
        self._over_time = over_time
        self.largest_gamma = norm.weight.abs().max().item()
        self._largest_beta = norm.bias.abs().max().item()

    def num_positions(self, shape: tuple[int, int, int, int]) -> int:
        """How many of the frames' positions it spans."""
        return self._span(shape) * shape[1] * shape[2]

    def bound(self, num_positions: int) -> float:
        """The largest magnitude of what comes out of this many positions, whatever goes in."""
        num_values = num_positions * len(self._gamma) // self._groups
        largest: float = self.largest_gamma * num_values**0.5 + self._largest_beta
        return largest

    def run(
        self, pending: Pending, dtypes: Dtypes, edges: Edges = NO_EDGES, *, silu: bool, sums: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        """Normalise and activate frames.

        Args:
            pending: read once.
            dtypes: of what comes out.
            edges: of the normalised form.
            silu: whether to activate.
            sums: whether the frames themselves are needed too.

        Returns:
            The frames themselves, if `sums`, and their normalised form, `[T, H, W, C]` with its edges.
        """
        # A bias alone is no reason to write the sums down: the second pass adds it again.
        plain = pending.layout is Layout.FRAMES and pending.residual is None
        keep = not plain or (sums and not pending.settled)
        affine = self._measure(pending, dtypes.sums, keep=keep)
        target = _laid_out(pending, dtypes.bounded, edges, affine, span=self._span(pending.shape), silu=silu)
        frames, _ = pending.take()
        return frames if sums else None, target

    def _span(self, shape: tuple[int, int, int, int]) -> int:
        return shape[0] if self._over_time else 1

    def _measure(self, pending: Pending, dtype: torch.dtype, *, keep: bool) -> Tensor:
        """Scale and shift of each channel, `[norms, 2, C]`; with `keep`, `pending` is settled then."""
        num_frames, height, width, channels = pending.shape
        layout, bias, source, residual = pending.layout, pending.bias, pending.source, pending.residual
        assert source is not None
        kept = source.new_empty(pending.shape, dtype=dtype) if keep else None
        span = self._span(pending.shape)
        block_p, block_c = _blocks(channels)
        num_blocks = triton.cdiv(height * width, block_p)
        num_programs = min(num_blocks, max(1, _MAX_PROGRAMS // span))
        pivots = source.new_empty(num_frames // span, channels, dtype=torch.float32)
        partials = source.new_empty(num_frames, num_programs, 2, channels, dtype=torch.float32)
        _measure[(num_programs, num_frames)](
            source,
            source if bias is None else bias,
            source if residual is None else residual,
            source if kept is None else kept,
            pivots,
            partials,
            span,
            height * width,
            width,
            channels,
            triton.cdiv(num_blocks, num_programs),
            PHASES=_NUM_PHASES[layout],
            BIAS=bias is not None,
            RESIDUAL=residual is not None,
            SUMS=kept is not None,
            BLOCK_P=block_p,
            BLOCK_C=block_c,
            num_warps=4,
        )
        if kept is not None:
            pending.settle(kept)
        affine = pivots.new_empty(len(pivots), 2, channels)
        per_group = channels // self._groups
        _conclude[(self._groups, len(pivots))](
            pivots,
            partials,
            self._gamma,
            self.beta,
            affine,
            span * height * width,
            span * num_programs,
            channels,
            per_group,
            self._eps,
            BLOCK_R=_PROGRAMS_AT_ONCE,
            BLOCK_C=triton.next_power_of_2(per_group),
            num_warps=4,
        )
        return affine


def settle(pending: Pending, dtype: torch.dtype, edges: Edges = NO_EDGES) -> Tensor:
    """The frames themselves, `[T, H, W, C]` with their edges."""
    if pending.settled and edges == NO_EDGES:
        return pending.take()[0]
    target = _laid_out(pending, dtype, edges, None, span=1, silu=False)
    pending.take()
    return target


def _laid_out(
    pending: Pending, dtype: torch.dtype, edges: Edges, affine: Tensor | None, *, span: int, silu: bool
) -> Tensor:
    """A convolution's input; what was pending still is."""
    num_frames, height, width, channels = pending.shape
    layout, bias, source, residual = pending.layout, pending.bias, pending.source, pending.residual
    assert source is not None
    shape = (num_frames + edges.frames, height + 2 * edges.cells, width + 2 * edges.cells, channels)
    target = source.new_empty(shape, dtype=dtype)
    block_p, block_c = _blocks(channels)
    num_cells = shape[1] * shape[2]
    _lay_out[(triton.cdiv(num_cells, block_p), shape[0])](
        source,
        source if bias is None else bias,
        source if residual is None else residual,
        source if affine is None else affine,
        target,
        span,
        height * width,
        num_cells,
        width,
        channels,
        PHASES=_NUM_PHASES[layout],
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        NORM=affine is not None,
        SILU=silu,
        EDGE_FRAMES=edges.frames,
        EDGE_CELLS=edges.cells,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=4,
    )
    return target


def _blocks(channels: int) -> tuple[int, int]:
    block_c = triton.next_power_of_2(channels)
    return max(1, _ELEMENTS_PER_PROGRAM // block_c), block_c
