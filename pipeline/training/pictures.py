"""Side-by-side pictures for the model card: the original left, decoded right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

GAP = 6


def save_pictures(shown: dict[str, list[tuple[Tensor, Tensor]]], out: Path) -> None:
    """Write one PNG a frame, `NAME-INDEX.png`; each pair is original and decoded, `[3, H, W]` in [0, 1]."""
    for name, pairs in shown.items():
        for i, (original, decoded) in enumerate(pairs):
            picture = torch.cat([functional.pad(original, (0, GAP), value=1.0), decoded], dim=2)
            pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(np.ascontiguousarray(pixels)).save(out / f"{name}-{i:02d}.png")
