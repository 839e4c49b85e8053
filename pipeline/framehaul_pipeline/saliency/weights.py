"""Reads TASED-Net's weights. Imports torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from framehaul_pipeline.decoders.weights import read_tensors
from framehaul_pipeline.saliency.network import TasedNet

_COUNTERS = "num_batches_tracked"


def load_tased(path: Path) -> TasedNet:
    """Read the published weights, converted to safetensors, into a network on the CPU, in evaluation mode.

    Raises:
        InvalidInput: the file is not theirs.
    """
    with torch.device("meta"):
        net = TasedNet()
    wanted = {name: tensor.shape for name, tensor in net.state_dict().items() if not name.endswith(_COUNTERS)}
    tensors = read_tensors(path, wanted, _bare)
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False, assign=True)
    return net.requires_grad_(False).eval()


def _bare(names: Collection[str]) -> dict[str, str]:
    """The published file was saved from within another module; training's counters are left out."""
    return {name: name.removeprefix("module.") for name in names if not name.endswith(_COUNTERS)}
