"""The clips that `tiny` is judged by; training sees none of them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from training.batches import SMALL_HEIGHT
from training.media import Bank, read_film, read_photos
from training.synthesis import Dice, Scenes, change_colours

PAN_FRAMES, PAN_HEIGHT, PAN_WIDTH = 24, 448, 592
CROP_WIDTH = 832


def held_out_sets(media: Path, device: torch.device, *, num_film: int = 12, num_made: int = 16) -> dict[str, Tensor]:
    """Clips by name, `[N, T, 3, H, W] uint8`.

    The film's windows come from scenes whose places training never sees; a photograph becomes a slow pan over it.
    """
    windows = read_film(media, "test")
    # Evenly over both scenes, so that no shot counts twice as long as it is.
    chosen = torch.linspace(0, len(windows) - 1, min(num_film, len(windows))).round().long()
    edge = (windows.shape[-1] - CROP_WIDTH) // 2
    sets = {"film": windows[chosen][..., edge : edge + CROP_WIDTH]}
    for name, photo in read_photos(media, held_out=True).items():
        sets[name] = _levels(_pan(photo.to(device).float() / 255)[None])
    bank = Bank.load(media, device, test=True, num_made=12)
    dice = Dice(device, torch.Generator(device).manual_seed(3))
    scenes = Scenes(bank, 256, 16, dice)
    made = [change_colours(scenes.make(8), dice) for _ in range(math.ceil(num_made / 8))]
    sets["procedural"] = _levels(torch.cat(made)[:num_made])
    return sets


def _levels(clips: Tensor) -> Tensor:
    return (clips * 255).round().byte()


def _pan(photo: Tensor) -> Tensor:
    """Pan, slow zoom and slight turn over `[3, H, W]`: `[T, 3, 448, 592]`."""
    height, width = photo.shape[1:]
    axes = [torch.arange(side, device=photo.device) - side / 2 for side in (PAN_HEIGHT, PAN_WIDTH)]
    y, x = torch.meshgrid(*axes, indexing="ij")
    magnify = 0.62 if height < SMALL_HEIGHT + 200 else 1.0
    frames = []
    for t in torch.linspace(-0.5, 0.5, PAN_FRAMES).tolist():
        cos, sin, scale = math.cos(0.04 * t), math.sin(0.04 * t), magnify * (1 + 0.08 * t)
        at_x = (x * cos - y * sin) * scale + width / 2 + t * width * 0.2
        at_y = (x * sin + y * cos) * scale + height / 2 + t * height * 0.1
        where = torch.stack([at_x * 2 / width - 1, at_y * 2 / height - 1], -1)[None]
        seen = functional.grid_sample(
            photo[None], where, mode="bicubic", padding_mode="reflection", align_corners=False
        )
        frames.append(seen[0])
    return torch.stack(frames).clamp(0, 1)
