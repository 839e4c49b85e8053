"""Frames that a convolution has begun and the next kernel ends, and how tensors hold them. For the worker alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor


class Layout(IntEnum):
    """How a tensor holds `T` frames of `C` channels."""

    FRAMES = 0
    """`[T, H, W, C]`."""
    PLANES = 1
    """`[4, T / 2, H, W, C]`: F(2, 3) in time."""
    PHASES = 2
    """`[T, H / 2 + 1, W / 2 + 1, 4 * C]`: each position of the small frame holds four of the doubled frame, those of
    phase `(a, b)` one row up if `a` and one column left if `b`."""
    TIME_PHASES = 3
    """`[(T + 1) / 2, H / 2 + 1, W / 2 + 1, 8 * C]`: time is doubled too, but for the first frame. Small frame `t` holds
    the four phases of the doubled frame `2 t`, and then those of the one before."""


@dataclass(slots=True, eq=False)
class Pending:
    """Frames that a convolution has begun: what is to be added to them is added by the kernel that reads them.

    They are read once, and their memory is free from then on.
    """

    source: Tensor | None
    layout: Layout
    shape: tuple[int, int, int, int]
    """`(T, H, W, C)` of the frames."""
    bias: Tensor | None = None
    residual: Tensor | None = None

    @property
    def settled(self) -> bool:
        """Whether the source is the frames themselves."""
        return self.layout is Layout.FRAMES and self.bias is None and self.residual is None

    def settle(self, frames: Tensor) -> None:
        """What was pending is done: these are the frames."""
        self.source, self.layout, self.bias, self.residual = frames, Layout.FRAMES, None, None

    def take(self) -> tuple[Tensor, Tensor | None]:
        """Source and residual, which this forgets."""
        source, residual = self.source, self.residual
        assert source is not None
        self.source = self.residual = None
        return source, residual
