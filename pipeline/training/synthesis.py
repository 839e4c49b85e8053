"""Clips made on the device: layered synthetic scenes, crops of the film, and the colour changes laid over both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.media import Bank
from training.textures import TILE

KIND_SHARES = (0.68, 0.16, 0.16)
"""How often a texture is a photograph, text, or noise."""
NUM_SHAPES = 3


@dataclass(frozen=True, slots=True)
class Dice:
    """Random tensors on one device, from one generator (None: the device's own)."""

    device: torch.device
    generator: torch.Generator | None = None

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(*shape, device=self.device, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.randn(*shape, device=self.device, generator=self.generator)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """1.0 with that probability, else 0.0."""
        return (self.uniform(*shape) < probability).float()


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


class Scenes:
    """Synthetic clips: a texture or gradient under pan, zoom and rotation, with moving shapes before it."""

    def __init__(self, bank: Bank, size: int, frames: int, dice: Dice) -> None:
        """Make clips of `frames` frames of `size` x `size` pixels."""
        self._bank, self._dice, self._size, self._frames = bank, dice, size, frames
        axis = torch.arange(size, device=dice.device, dtype=torch.float32) - (size - 1) / 2
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self._grid = torch.stack([x, y], -1)  # [S, S, 2]
        self._time = torch.arange(frames, device=dice.device) - frames / 2
        self._shape_weights = torch.tensor([3.0, 3.0, 1.0, 2.0, 1.5, 0.7], device=dice.device)
        self._kind_weights = torch.tensor(
            [share if count else 0.0 for share, count in zip(KIND_SHARES, bank.counts, strict=True)],
            device=dice.device,
        )
        self._counts = torch.tensor(bank.counts, device=dice.device)
        self._firsts = self._counts.cumsum(0) - self._counts

    def make(self, n: int) -> Tensor:
        """`n` clips, `[n, T, 3, S, S]` in about [0, 1]."""
        x = self._background(n)
        for layer in range(NUM_SHAPES):
            x = self._add_shape(x, textured=layer == 0)
        return x

    def _pick(self, n: int) -> Tensor:
        kind = torch.multinomial(self._kind_weights, n, replacement=True, generator=self._dice.generator)
        offset = (self._dice.uniform(n) * self._counts[kind]).long()
        return self._firsts[kind] + offset

    def _look(self, texels: Tensor) -> Tensor:
        """Sample one tile for each clip at `[n, T, S, S, 2]` texels: `[n, T, 3, S, S]`."""
        n, frames, size = texels.shape[:3]
        where = (texels.reshape(n, frames * size, size, 2) + 0.5) * (2 / TILE) - 1
        tiles = self._bank.tiles[self._pick(n)].float() / 255
        seen = functional.grid_sample(tiles, where, mode="bilinear", padding_mode="reflection", align_corners=False)
        return seen.view(n, 3, frames, size, size).transpose(1, 2)

    def _path(self, n: int, speed: float) -> Tensor:
        """Smooth motion, `[n, T, 2]` in pixels, zero at the middle of the clip."""
        dice, t = self._dice, self._time[None, :, None]
        velocity = dice.normal(n, 1, 2) * speed * dice.uniform(n, 1, 1) ** 2 * 2
        acceleration = dice.normal(n, 1, 2) * speed * 0.04
        shake = dice.normal(n, 1, 2) * 1.5 * torch.sin(t * (dice.uniform(n, 1, 1) * 1.2) + 6 * dice.uniform(n, 1, 1))
        return velocity * t + acceleration * t**2 + shake * dice.chance(0.3, n, 1, 1)

    def _background(self, n: int) -> Tensor:
        dice, t = self._dice, self._time
        moves = 1 - dice.chance(0.15, n, 1)
        zoom = torch.exp(dice.uniform(n, 1) * math.log(1.6 / 0.5) + math.log(0.5))
        zoom = zoom * torch.exp(dice.normal(n, 1) * 0.012 * t * moves)
        angle = dice.normal(n, 1) * 0.15 + dice.chance(0.15, n, 1) * dice.uniform(n, 1) * 2 * math.pi
        angle = angle + dice.normal(n, 1) * 0.012 * t * moves
        centre = dice.uniform(n, 1, 2) * TILE + self._path(n, 3.0) * moves[..., None]
        turn = _rotation(angle) * zoom[..., None, None]
        x = self._look(torch.einsum("ntij,hwj->nthwi", turn, self._grid) + centre[:, :, None, None])
        ramp = torch.einsum("hwj,nj->nhw", self._grid, dice.normal(n, 2)) / self._size
        ramp = ramp[:, None, None] + 0.05 * dice.normal(n, 1, 1, 1, 1) * t.view(1, -1, 1, 1, 1)
        first, second = dice.uniform(n, 1, 3, 1, 1), dice.uniform(n, 1, 3, 1, 1)
        gradient = first + (second - first) * (ramp + 0.5).clamp(0, 1)
        return torch.lerp(x, gradient, dice.chance(0.12, n, 1, 1, 1, 1).expand_as(x))

    def _add_shape(self, x: Tensor, *, textured: bool) -> Tensor:
        """Lay a moving shape with a plain, gradient, patterned or textured inside over every clip."""
        dice, n = self._dice, len(x)
        radius = torch.exp(dice.uniform(n, 1, 1, 1) * 1.9 + math.log(self._size * 0.05))
        angle = dice.uniform(n, 1) * 2 * math.pi + dice.normal(n, 1) * 0.04 * self._time
        place = dice.normal(n, 1, 2) * self._size * 0.3 + self._path(n, 4.0)
        local = torch.einsum("ntij,nthwj->nthwi", _rotation(angle), self._grid - place[:, :, None, None])
        u, v = (local / radius[..., None]).unbind(-1)
        distance = self._distance(u, v) * radius
        softness = torch.where(dice.uniform(n, 1, 1, 1) < 0.75, 1.0, 1 + 8 * dice.uniform(n, 1, 1, 1))
        mask = (0.5 - distance / softness).clamp(0, 1)[:, :, None]
        mask = mask * (0.4 + 0.6 * dice.chance(0.8, n, 1, 1, 1, 1)) * dice.chance(0.6, n, 1, 1, 1, 1)
        fill = self._fill(local, u)
        if textured:
            shift = dice.uniform(n, 1, 1, 1, 2) * TILE
            texture = self._look(local * (dice.uniform(n, 1, 1, 1, 1) * 0.8 + 0.4) + shift)
            fill = torch.where(dice.uniform(n, 1, 1, 1, 1) < 0.6, texture, fill)
        return x + mask * (fill - x)

    def _distance(self, u: Tensor, v: Tensor) -> Tensor:
        """Signed distance, in radii, to one of six shapes for each clip."""
        dice, n = self._dice, len(u)
        r = (u**2 + v**2 + 1e-6).sqrt()
        aspect = dice.uniform(n, 1, 1, 1) * 2 + 0.3
        points = torch.floor(dice.uniform(n, 1, 1, 1) * 5) + 3
        star = r * (1 + 0.35 * torch.cos(points * torch.atan2(v, u))) - 1
        box = torch.maximum(u.abs() - aspect, v.abs() - 1)
        shapes = torch.stack([r - 1, box, (r - 0.8).abs() - 0.15, star, v.abs() - 0.12, u])
        kind = torch.multinomial(self._shape_weights, n, replacement=True, generator=dice.generator)
        return shapes.gather(0, kind.view(1, n, 1, 1, 1).expand(1, *shapes.shape[1:]))[0]

    def _fill(self, local: Tensor, u: Tensor) -> Tensor:
        dice, n = self._dice, len(u)
        first, second = dice.uniform(n, 1, 3, 1, 1), dice.uniform(n, 1, 3, 1, 1)
        period = torch.exp(dice.uniform(n, 1, 1, 1) * 2.0 + math.log(4.0))
        stripes, across = (torch.sin(local[..., i] * 2 * math.pi / period) for i in (0, 1))
        pattern = torch.where(dice.uniform(n, 1, 1, 1) < 0.5, stripes, stripes * across)
        hardness = 1 + 7 * dice.chance(0.6, n, 1, 1, 1)
        pattern = 0.5 + 0.5 * (pattern * hardness).clamp(-1, 1)
        choice = dice.uniform(n, 1, 1, 1)
        blend = torch.where(choice < 0.7, (u * 0.5 + 0.5).clamp(0, 1), pattern)
        blend = torch.where(choice < 0.4, torch.zeros_like(pattern), blend)[:, :, None]
        return first + (second - first) * blend


def change_colours(x: Tensor, dice: Dice) -> Tensor:
    """Swap channels, bend tones, fade out and cut between clips, each now and then: `[n, T, 3, S, S]` in [0, 1]."""
    n, frames = x.shape[:2]
    order = dice.uniform(n, 3).argsort(1)
    order = torch.where(dice.uniform(n, 1) < 0.25, order, torch.arange(3, device=x.device))
    x = x.gather(2, order.view(n, 1, 3, 1, 1).expand_as(x))
    on = dice.chance(0.5, n, 1, 1, 1, 1)
    x = x.clamp(0, 1) ** torch.exp((dice.uniform(n, 1, 1, 1, 1) - 0.5) * on)
    contrast = 1 + (dice.uniform(n, 1, 1, 1, 1) * 0.8 - 0.5) * on
    tint = (dice.uniform(n, 1, 3, 1, 1) - 0.5) * 0.16 * on
    x = (x - 0.5) * contrast + 0.5 + tint
    t = torch.arange(frames, device=x.device).view(1, frames, 1, 1, 1)
    fades = dice.chance(0.08, n, 1, 1, 1, 1)
    x = x * (1 - fades * ((t - dice.uniform(n, 1, 1, 1, 1) * frames) / frames).clamp(0, 1))
    cut = torch.where(dice.uniform(n) < 0.08, (dice.uniform(n) * (frames - 1)).long() + 1, frames)
    x = torch.where(t >= cut.view(n, 1, 1, 1, 1), x.roll(1, 0), x)
    return x.clamp(0, 1)
