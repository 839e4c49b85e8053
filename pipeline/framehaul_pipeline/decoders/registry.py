"""Which decoder runs which model. For the worker process alone."""

from __future__ import annotations

import torch

from framehaul_pipeline.decoders.autoencoder_kl import load_autoencoder_kl
from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.decoders.hunyuan_video import load_hunyuan_video
from framehaul_pipeline.decoders.tiny import load_tiny
from framehaul_pipeline.decoders.wan.decoder import load_wan
from framehaul_pipeline.decoders.wan.plans import PlanTable
from framehaul_pipeline.models.model import Model, ModelKind


def load_decoder(model: Model, device: torch.device, plans: PlanTable | None = None) -> Decoder:
    """Load a model's decoder onto a device.

    Args:
        model: which decoder, and where its weights are.
        device: where it decodes.
        plans: for our own convolutions on CUDA; None leaves them to PyTorch.

    Raises:
        InvalidInput: the weights are not what they should be.
    """
    match model.kind:
        case ModelKind.TINY:
            return load_tiny(device, torch.float16 if device.type == "cuda" else torch.float32)
        case ModelKind.WAN:
            return load_wan(model, device, plans)
        case ModelKind.AUTOENCODER_KL:
            return load_autoencoder_kl(model, device)
        case ModelKind.HUNYUAN_VIDEO:
            return load_hunyuan_video(model, device)
