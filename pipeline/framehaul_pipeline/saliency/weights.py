"""Reads TASED-Net's weights. Imports torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from framehaul_pipeline.decoders.weights import read_tensors
from framehaul_pipeline.models.saliency import bare_name
from framehaul_pipeline.saliency.network import TasedNet


def load_tased(path: Path) -> TasedNet:
    """Read the published weights, converted to safetensors, into a network on the CPU, in evaluation mode.

    Raises:
        InvalidInput: the file is not theirs.
    """
    with torch.device("meta"):
        net = TasedNet()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.num_batches_tracked = None  # training counts with it
    tensors = read_tensors(path, {name: tensor.shape for name, tensor in net.state_dict().items()}, _bare)
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False, assign=True)
    return net.requires_grad_(False).eval()


def _bare(names: Collection[str]) -> dict[str, str]:
    return {name: bare_name(name) for name in names}
