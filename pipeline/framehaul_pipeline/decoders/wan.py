"""Wan 2.1, Wan 2.2 and QwenImage behind the decoder contract. Imports torch: for the worker alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.wan_net import HISTORY, Histories, WanNet
from framehaul_pipeline.models import Model
from framehaul_pipeline.spec import DecoderSpec, Geometry
from framehaul_pipeline.wan_config import parse_wan_config, wan_state_shapes
from framehaul_pipeline.wan_file import rename_wan
from framehaul_pipeline.weights import read_tensors

CHUNK_LATENTS: Final = 2
"""Most latents a step takes on a GPU: more make it hardly faster and its workspace larger."""
_FLOAT16_LIMIT: Final = 60_000.0

_log = logging.getLogger("framehaul_pipeline.worker")


class WanDecoder:
    """A Wan decoder; in float32 through plain torch on the CPU, through `WanEngine` on CUDA.

    The state is one tensor with the histories of all causal convolutions end to end, and one whose length says how
    many chunks were decoded, 0 or 1 standing for more.
    """

    def __init__(self, spec: DecoderSpec, net: WanNet, device: torch.device) -> None:
        """Take over a network in float32 and in evaluation mode."""
        self.spec = spec
        self._config = net.config
        self._device = device
        if device.type == "cuda":
            from framehaul_pipeline.decoders.convolution import Convolutions, plan_file
            from framehaul_pipeline.decoders.wan_engine import Dtypes, WanEngine, magnitude_bound

            bound = magnitude_bound(net)
            bounded = torch.float16 if bound < _FLOAT16_LIMIT else torch.bfloat16
            self.dtype = torch.bfloat16
            self._engine = WanEngine(
                net.to(device), Dtypes(bounded, self.dtype), Convolutions(device, plan_file(device))
            )
            self._net = None
            _log.info("model=%s values after norms are at most %.0f: kept in %s", spec.name, bound, bounded)
        else:
            self.dtype = torch.float32
            self._net = net

    def open(self, geometry: Geometry, num_latents: int | None) -> State:
        """Zeros, however long the clip will be."""
        del num_latents
        size = self.state_bytes(geometry) // self.dtype.itemsize
        return [
            torch.zeros(size, dtype=self.dtype, device=self._device),
            torch.empty(0, dtype=self.dtype, device=self._device),
        ]

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """The first latent alone, for it is decoded as a picture; then any number."""
        del ended
        most = 1 if index == 0 else wanted if self._net is not None else min(wanted, CHUNK_LATENTS)
        return max(0, min(available, most))

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to frames `[F, 3, H, W]`; the state is overwritten."""
        histories, decoded = state
        first = decoded.numel() == 0
        if first:
            decoded = histories.new_empty(1)
        if self._net is not None:
            places = self._places(histories, latents.shape[2], latents.shape[3])
            frames = self._net.step(latents, places, first=first)
        else:
            self._engine.set_state(histories)
            frames = self._engine.decode(latents, first=first)
        return frames, [histories, decoded]

    def flush(self, state: State) -> Tensor | None:
        """Nothing is held back: all convolutions look only at the past."""
        del state
        return None

    def state_bytes(self, geometry: Geometry) -> int:
        """Device memory of one session's state."""
        shapes = wan_state_shapes(self._config, geometry.height, geometry.width)
        itemsize_bytes: int = self.dtype.itemsize
        return sum(HISTORY * c * h * w for c, h, w in shapes) * itemsize_bytes

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """Device memory of a step at its peak, beyond weights and state."""
        raise NotImplementedError

    def _places(self, histories: Tensor, height: int, width: int) -> Histories:
        start = 0
        for channels, rows, columns in wan_state_shapes(self._config, height, width):
            size = HISTORY * channels * rows * columns
            yield histories[start : start + size].view(HISTORY, rows, columns, channels)
            start += size


def load_wan(model: Model, device: torch.device) -> WanDecoder:
    """Read a Wan VAE's decoder onto a device.

    Raises:
        InvalidInput: the weights are not those of the model's configuration.
    """
    with torch.device("meta"):
        net = WanNet(parse_wan_config(model.config))
    assert model.path is not None
    wanted = {name: tensor.shape for name, tensor in net.state_dict().items()}
    tensors = read_tensors(Path(model.path), wanted, rename_wan, sha256=model.sha256)
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True, assign=True)
    return WanDecoder(model.spec, net.requires_grad_(False).eval(), device)
