"""Loads a model's decoder by its loader. For the worker process alone."""

from __future__ import annotations

import pkgutil

import torch

from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.models.model import Model


def load_decoder(model: Model, device: torch.device, plans: PlanTable | None = None) -> Decoder:
    """Load a model's decoder onto a device.

    Args:
        model: which decoder, and where its weights are.
        device: where it decodes.
        plans: for our own convolutions on CUDA; None leaves them to PyTorch.

    Raises:
        InvalidInput: the weights are not what they should be.
    """
    decoder: Decoder = pkgutil.resolve_name(model.loader)(model, device, plans)
    return decoder
