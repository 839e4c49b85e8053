"""Other forms of convolutions' weights, which give the same sums with less work. For the worker process alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TAPS_ALIGNMENT: Final = 32
FLOAT16_LIMIT: Final = 60_000.0


class Dtypes(NamedTuple):
    """Element types of what the engine keeps between kernels; both of one size."""

    bounded: torch.dtype
    """What comes from a norm, and what a convolution makes of it."""
    sums: torch.dtype
    """Sums along the shortcuts, and what reads them."""


def phase_weights(weight: Tensor, *, time: bool = False) -> Tensor:
    """Weights of the 2x2 convolution that doubling by nearest neighbour and a 3x3 convolution are.

    A row of the doubled frame's three taps falls on two rows of the small one: on even rows the last two taps fall
    together, on odd rows the first two; likewise columns. So it is with frames where time is doubled but for the first
    frame, and a frame's last tap is itself.

    Args:
        weight: `[C', C, 3, 3]`, or `[C', C, 3, 3, 3]` of a causal convolution.
        time: whether time is doubled too.

    Returns:
        `[4 * C', C, 2, 2]` or `[4 * C', C, 3, 2, 2]`, phases `(row, column)` first; with `time`
        `[8 * C', C, 2, 2, 2]`, phases `(frame, row, column)` first.
    """

    def fold(w: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        first, middle, last = w.unbind(dim)
        return torch.stack((first, middle + last), dim), torch.stack((first + middle, last), dim)

    phases = [weight]
    for dim in (*((2,) if time else ()), -2, -1):
        phases = [phase for phase_before in phases for phase in fold(phase_before, dim)]
    return torch.cat(phases)


def tap_weights(weight: Tensor) -> Tensor:
    """Weights `[N, C, kt, 1, 1]` that give each spatial tap of `weight`, `[C', C, kt, 3, 3]`, a channel of its own.

    Channel `k * C'` and on are tap `k`'s; `N` is filled up to a multiple that matrix units like.
    """
    channels_out, channels_in, steps = weight.shape[:3]
    taps = weight.permute(3, 4, 0, 1, 2).reshape(-1, channels_in, steps)
    count = math.ceil(9 * channels_out / _TAPS_ALIGNMENT) * _TAPS_ALIGNMENT
    return F.pad(taps, (0, 0, 0, 0, 0, count - taps.shape[0])).view(count, channels_in, steps, 1, 1)


def laid_out(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights as `Convolutions` takes them: channels last."""
    memory_format = torch.channels_last if weight.dim() == 4 else torch.channels_last_3d
    return weight.to(dtype).contiguous(memory_format=memory_format)


def longest_filter(weight: Tensor, *, edges: bool) -> float:
    """The largest Euclidean length of a filter of `weight`, `[C', C, 3, 3]` or `[C', C, 3, 3, 3]`.

    Args:
        weight: 3 taps in each of its dimensions; in time the last one is the frame itself.
        edges: a tap outside of the frames falls on what is nearest to it. So filters count as they are there too.
    """
    filters = _folded(weight, 2) if edges else (weight,)
    return max(float(each.flatten(1).norm(dim=1).max()) for each in filters)


def _folded(weight: Tensor, dim: int) -> Iterator[Tensor]:
    """The filters inside and at all edges of the dimensions from `dim` on."""
    if dim == weight.dim():
        yield weight
        return
    first, middle, last = weight.unbind(dim)
    ends = [(first, middle, last), (first + middle, last), (first + middle + last,)]
    if dim >= weight.dim() - 2:  # in time nothing comes after
        ends.append((first, middle + last))
    for end in ends:
        yield from _folded(torch.stack(end, dim), dim + 1)


def linear(conv: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight `[C', C]` and bias `[C']` of a convolution of one position, for `functional.linear`."""
    weight, bias = conv.weight, conv.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    return weight.flatten(1).to(dtype).contiguous(), bias.to(dtype)


def bias_of(conv: nn.Module) -> Tensor:
    """Its bias, `[C'] float32`."""
    bias = conv.bias
    assert isinstance(bias, Tensor)
    return bias.float()
