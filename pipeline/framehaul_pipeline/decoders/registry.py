"""Which decoder belongs to which model name. For the worker process alone."""

from __future__ import annotations

import torch

from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.decoders.tiny import load_tiny
from framehaul_pipeline.errors import NotFound


def load_decoder(name: str, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Load a model's decoder onto a device.

    Raises:
        NotFound: no such model in this build.
        InvalidInput: its weights are not what they should be.
    """
    if name == "tiny":
        return load_tiny(device, dtype)
    raise NotFound(f"model={name}: must be tiny")
