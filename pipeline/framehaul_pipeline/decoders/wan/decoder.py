"""Wan 2.1, Wan 2.2 and QwenImage behind the decoder contract. Imports torch: for the worker alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import Decoder, State
from framehaul_pipeline.decoders.cuda_graphs import CudaGraphs
from framehaul_pipeline.decoders.engine.convolution import Convolutions
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.decoders.wan.net import HISTORY, Histories, WanNet
from framehaul_pipeline.decoders.weights import read_tensors
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.models.wan import WanConfig, parse_wan_config, wan_state_shapes
from framehaul_pipeline.models.wan_names import rename_wan
from framehaul_pipeline.spec import DecoderSpec, Geometry

_log = logging.getLogger(__name__)


class WanDecoder:
    """What both forms share.

    The state is one tensor with the histories of all causal convolutions end to end, and one that has an element once
    the clip's first latent is past: that one alone is decoded as a picture. A decode that starts behind it has nothing
    but zeros for a past, until all that a frame depends on has come again.
    """

    dtype: torch.dtype

    def __init__(self, spec: DecoderSpec, config: WanConfig, device: torch.device) -> None:
        """Note the shapes."""
        self.spec = spec
        self._config = config
        self._device = device

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """Zeros, wherever the decode starts and however long the clip will be."""
        del num_latents
        size = self.state_bytes(geometry) // self.dtype.itemsize
        histories = torch.zeros(size, dtype=self.dtype, device=self._device)
        begun = histories[:1] if first_latent else torch.empty(0, dtype=self.dtype, device=self._device)
        return [histories, begun]

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """The first latent alone, for it is decoded as a picture; then any number."""
        del ended
        return max(0, min(available, wanted if index else 1))

    def flush(self, state: State) -> Tensor | None:
        """Nothing is held back: all convolutions look only at the past."""
        del state
        return None

    def state_bytes(self, geometry: Geometry) -> int:
        """Device memory of one session's state."""
        shapes = wan_state_shapes(self._config, geometry.height, geometry.width)
        itemsize_bytes: int = self.dtype.itemsize
        return sum(HISTORY * c * h * w for c, h, w in shapes) * itemsize_bytes


class PortableWanDecoder(WanDecoder):
    """In float32, through plain torch."""

    dtype = torch.float32

    def __init__(self, spec: DecoderSpec, net: WanNet) -> None:
        """Take over a network in float32 and in evaluation mode."""
        super().__init__(spec, net.config, net.post_quant_conv.weight.device)
        self._net = net

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to frames `[F, 3, H, W]`; the state is overwritten."""
        histories, begun = state
        places = self._places(histories, latents.shape[2], latents.shape[3])
        frames = self._net.step(latents, places, first=begun.numel() == 0)
        return frames, [histories, histories[:1]]

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """Device memory of a step at its peak, beyond weights and state."""
        return _workspace_bytes(self._config, geometry, num_latents, self.dtype.itemsize, _PORTABLE_COPIES)

    def _places(self, histories: Tensor, height: int, width: int) -> Histories:
        start = 0
        for channels, rows, columns in wan_state_shapes(self._config, height, width):
            size = HISTORY * channels * rows * columns
            yield histories[start : start + size].view(HISTORY, rows, columns, channels)
            start += size


class CudaWanDecoder(WanDecoder):
    """In half precision, through `WanEngine`."""

    dtype = torch.bfloat16

    def __init__(self, spec: DecoderSpec, net: WanNet, device: torch.device, plans: PlanTable | None) -> None:
        """Lay out the weights of a network in float32; without `plans`, PyTorch runs its convolutions."""
        # Triton is there where CUDA is.
        from framehaul_pipeline.decoders.engine.weights import FLOAT16_LIMIT, Dtypes
        from framehaul_pipeline.decoders.wan.engine import WanEngine
        from framehaul_pipeline.decoders.wan.weights import magnitude_bound

        super().__init__(spec, net.config, device)
        bound = magnitude_bound(net)
        bounded = torch.float16 if bound < FLOAT16_LIMIT else torch.bfloat16
        _log.info("model=%s values after norms are at most %.0f: kept in %s", spec.name, bound, bounded)
        self._convolutions = Convolutions(device, plans)
        self._engine = WanEngine(net.to(device), Dtypes(bounded, self.dtype), self._convolutions)
        self._graphs = CudaGraphs(device)

    def preparing(self) -> AbstractContextManager[None]:
        """Within it, `step` takes the time to find the fastest kernels, and records its chunks for later ones."""
        return self._convolutions.timed()

    def forget(self) -> None:
        """Drop what was recorded; plans stay."""
        self._graphs.forget()

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to frames `[F, 3, H, W]`, valid until the next step; the state is overwritten."""
        histories, begun = state
        first = begun.numel() == 0
        key = (latents.shape, first)

        def decode(inputs: Sequence[Tensor]) -> list[Tensor]:
            return [self._engine.decode(inputs[0], first=first)]

        self._engine.set_state(histories)
        # Reproducible sessions decode latents one by one.
        self._convolutions.reproducible = len(latents) == 1
        if key in self._graphs:
            (frames,) = self._graphs.run(key, [latents])
        else:
            (frames,) = decode([latents])
            if self._convolutions.timing:
                self._graphs.record(key, [latents], decode)
        return frames, [histories, histories[:1]]

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """Device memory of a step at its peak, beyond weights and state."""
        return _workspace_bytes(self._config, geometry, num_latents, self.dtype.itemsize, _CUDA_COPIES)


def load_wan(model: Model, device: torch.device, plans: PlanTable | None) -> Decoder:
    """Read a Wan VAE's decoder onto a device; on CUDA its convolutions run by `plans`.

    Raises:
        InvalidInput: the weights are not those of the model's configuration.
    """
    with torch.device("meta"):
        net = WanNet(parse_wan_config(model.config))
    assert model.path is not None
    wanted = {name: tensor.shape for name, tensor in net.state_dict().items()}
    tensors = read_tensors(Path(model.path), wanted, rename_wan, sha256=model.sha256)
    net.take({name: tensor.float() for name, tensor in tensors.items()})
    net.requires_grad_(False).eval()
    if device.type == "cuda":
        return CudaWanDecoder(model.spec, net, device, plans)
    return PortableWanDecoder(model.spec, net.to(device))


_CUDA_COPIES: Final = 6.5
"""Of the last stage's frames, at most, that a step holds: the planes that a convolution gave (2), the sums before it
and after it, the next convolution's planes (2); and the convolutions' own workspace."""
_PORTABLE_COPIES: Final = 8.0
"""Norms and activations make new tensors."""


def _workspace_bytes(
    config: WanConfig, geometry: Geometry, num_latents: int, itemsize_bytes: int, copies: float
) -> int:
    scale = 2 ** len(config.time_doublings)
    positions = geometry.height * geometry.width * scale**2
    num_frames = num_latents * 2 ** sum(config.temperal_downsample)
    return int(copies * (num_frames + HISTORY) * positions * config.widths[-1] * itemsize_bytes)
