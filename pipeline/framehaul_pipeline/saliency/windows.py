"""A pool's windows. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Windows(NamedTuple):
    """A pool's windows, square, in space alone."""

    size: int
    stride: int
    padding: int

    def count(self, length: int) -> int:
        """How many there are along a side."""
        return (length + 2 * self.padding - self.size) // self.stride + 1

    def sides(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """The three of them for both axes, as PyTorch's unpooling wants them."""
        return (self.size, self.size), (self.stride, self.stride), (self.padding, self.padding)
