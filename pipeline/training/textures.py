"""Textures made by program: pages of text and boxes, and coloured noise. They vary what films and photographs lack."""

from __future__ import annotations

import math
import random
import string
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

TILE = 640
"""Side of a texture tile in texels."""

Colour = tuple[int, int, int]


def text_tiles(count: int, seed: int) -> list[Tensor]:
    """`count` pages `[3, TILE, TILE] uint8` of words in many sizes over lines, boxes and plain ground."""
    # Only for its fonts, and only when training: everything else here works without.
    import matplotlib

    rng = random.Random(seed)
    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts/ttf").glob("DejaVu*.ttf"))
    return [_page(rng, fonts) for _ in range(count)]


def _page(rng: random.Random, fonts: list[Path]) -> Tensor:
    dark = rng.random() < 0.4
    ground = _colour(rng, 0, 60) if dark else _colour(rng, 190, 256)
    if rng.random() < 0.3:
        ground = _colour(rng, 0, 256)
    page = Image.new("RGB", (TILE, TILE), ground)
    draw = ImageDraw.Draw(page)
    for _ in range(rng.randint(0, 10)):
        _shape(rng, draw)
    y = rng.randint(0, 20)
    while y < TILE:
        size = int(math.exp(rng.uniform(math.log(11), math.log(90))))
        font = ImageFont.truetype(str(rng.choice(fonts)), size)
        ink: Colour = _colour(rng, 0, 256)
        if rng.random() < 0.6:
            r, g, b = ((255 - c // 3) if dark else c // 4 for c in ground)
            ink = (r, g, b)
        for _ in range(rng.randint(1, 6)):
            draw.text((rng.randint(0, 60), y), " ".join(_word(rng) for _ in range(14)), fill=ink, font=font)
            y += int(size * 1.25)
            if y > TILE:
                break
        y += rng.randint(0, 60)
    return torch.from_numpy(np.array(page)).permute(2, 0, 1)


def _shape(rng: random.Random, draw: ImageDraw.ImageDraw) -> None:
    x, y, w, h = (rng.randrange(TILE) for _ in range(4))
    box = (x, y, x + w // 2 + 4, y + h // 3 + 4)
    fill = _colour(rng, 0, 256) if rng.random() < 0.7 else None
    outline, line_width, kind = _colour(rng, 0, 256), rng.randint(1, 4), rng.random()
    if kind < 0.4:
        draw.rectangle(box, fill=fill, outline=outline, width=line_width)
    elif kind < 0.7:
        draw.rounded_rectangle(box, radius=rng.randint(2, 20), fill=fill, outline=outline, width=line_width)
    elif kind < 0.85:
        draw.ellipse(box, fill=fill, outline=outline, width=line_width)
    else:
        points = [(rng.randrange(TILE), rng.randrange(TILE)) for _ in range(rng.randint(2, 5))]
        draw.line(points, fill=outline, width=rng.randint(1, 6))


def _colour(rng: random.Random, low: int, high: int) -> Colour:
    return rng.randrange(low, high), rng.randrange(low, high), rng.randrange(low, high)


def _word(rng: random.Random) -> str:
    letters = string.ascii_letters + string.digits * 2 + ".,:;!?-+/%&"
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 9)))


def noise_tiles(count: int, generator: torch.Generator) -> list[Tensor]:
    """`count` tiles `[3, TILE, TILE] uint8` of octave noise; every second one is banded or thresholded."""
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    tiles = []
    for i in range(count):
        roughness = float(uniform(1)) * 1.6 + 0.2
        x = torch.zeros(1, 3, TILE, TILE, device=device)
        for octave in range(8):
            cells = 3 * 2**octave
            layer = functional.interpolate(normal(1, 3, cells, cells), (TILE, TILE), mode="bicubic")
            x += layer * 2 ** (-roughness * octave)
        x = x / x.std()
        if i % 4 == 1:
            x = torch.sin(x[:, :1] * 4 * uniform(1, 3, 1, 1) + 6 * uniform(1, 3, 1, 1)) * 1.5
        elif i % 4 == 2:
            x = torch.tanh((x[:, :1] + 0.3 * x) * 8) * normal(1, 3, 1, 1)
        mix = normal(3, 3) * 0.5 + torch.eye(3, device=device) * 0.3 + 0.3
        y = torch.einsum("oc,nchw->nohw", mix, x) * 0.22 + uniform(1, 3, 1, 1) * 0.6 + 0.2
        tiles.append((y.clamp(0, 1) * 255).round()[0].byte().cpu())
    return tiles
