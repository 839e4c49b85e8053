"""Which decoder runs which model. For the worker process alone."""

from __future__ import annotations

import torch

from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.decoders.tiny import load_tiny
from framehaul_pipeline.decoders.wan import load_wan
from framehaul_pipeline.errors import NotFound
from framehaul_pipeline.models import Model, ModelKind


def load_decoder(model: Model, device: torch.device) -> Decoder:
    """Load a model's decoder onto a device.

    Raises:
        NotFound: this build has no decoder of the model's kind.
        InvalidInput: the weights are not what they should be.
    """
    match model.kind:
        case ModelKind.TINY:
            return load_tiny(device, torch.float16 if device.type == "cuda" else torch.float32)
        case ModelKind.WAN:
            return load_wan(model, device)
        case _:
            raise NotFound(f"model {model.spec.name}: this build has no decoder for kind={model.kind.value}")
