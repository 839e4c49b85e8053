"""Writes trained weights as the file that ships."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def export(path: Path, decoder: nn.Module, encoder: nn.Module, *, steps: int) -> None:
    """Write both halves as float16, `decoder.*` and `encoder.*`; the file appears only when whole."""
    tensors = {
        prefix + name: tensor.detach().to(device="cpu", dtype=torch.float16).contiguous()
        for prefix, net in (("decoder.", decoder), ("encoder.", encoder))
        for name, tensor in net.state_dict().items()
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"framehaul.model": "tiny", "framehaul.steps": str(steps)})
    partial.replace(path)
