"""The built-in decoder `tiny`: a small causal video autoencoder's second half. Imports torch: for the worker alone.

Tensors are time-major, `[T * B, C, H, W]` with the batch running fastest, so that "the previous frame" is a slice of
dimension 0 and the channels-last layout survives every step; a 5-D tensor would lose it at each concatenation.
A block remembers one frame, so the state is one frame per block, and any chunking gives the whole clip's frames.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.decoders.recorded import RecordedDecoder, with_previous
from framehaul_pipeline.decoders.weights import ASSETS, load_weights
from framehaul_pipeline.models.model import TINY_SPEC, Model
from framehaul_pipeline.spec import Geometry

if TYPE_CHECKING:
    from framehaul_pipeline.decoders.tiny_engine import TinyEngine

LATENT_LIMIT: Final = 3.0
"""Latents lie in (-3, 3): the encoder ends in a tanh, and the decoder clamps what it is given."""
STAGES: Final = [(160, 2, 8), (128, 2, 4), (64, 3, 2)]
"""Channels, number of blocks, and how much smaller than the frame they work."""
PATCH: Final = 2
"""The last layer writes 2x2 pixels a position: no layer runs at the frame's full size."""
WEIGHTS_PREFIX: Final = "decoder."
_log = logging.getLogger(__name__)
_LIBRARIES_BYTES: Final = 16 << 20
"""cuDNN's own workspaces, measured as 2 to 4 MB. On the CPU oneDNN takes a copy of a convolution's input instead."""


class CausalBlock(nn.Module):
    """Residual block over a frame and the one before it: `y_t = x_t + b(relu(a([x_t, x_(t-1)])))`."""

    def __init__(self, channels: int) -> None:
        """Build a block that starts as the identity."""
        super().__init__()
        self.a = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(self.a.weight, nonlinearity="relu")
        nn.init.zeros_(self.b.weight)
        for conv in (self.a, self.b):
            nn.init.zeros_(_bias(conv))

    def forward(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Run over a chunk.

        Args:
            x: `[T * B, C, H, W]`.
            last: `[B, C, H, W]`, the frame before the chunk; zeros at the start of a clip.

        Returns:
            `[T * B, C, H, W]`, and the last frame of `x`.
        """
        batch = last.shape[0]
        y: Tensor = self.b(functional.relu(self.a(with_previous(x, last)), inplace=True))
        # A slice would keep the whole chunk's activation alive: while others are computed, and while the session waits.
        return y.add_(x), x[-batch:].clone(memory_format=torch.channels_last)


class Upsample(nn.Module):
    """1x1 convolution, then channels to `time_factor` frames of twice the size each way."""

    def __init__(self, channels_in: int, channels_out: int, time_factor: int) -> None:
        """Build a layer that starts as nearest-neighbour upsampling of a projection."""
        super().__init__()
        self.time_factor, self.channels_out = time_factor, channels_out
        self.project = linear_conv(channels_in, channels_out * 4 * time_factor, 1)
        with torch.no_grad():
            self.project.weight.copy_(self.project.weight[:channels_out].repeat(4 * time_factor, 1, 1, 1))

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map `[T * B, C, H, W]` to `[T * time_factor * B, channels_out, 2 * H, 2 * W]`."""
        count, _, height, width = x.shape
        steps, r, c = count // batch, self.time_factor, self.channels_out
        y: Tensor = self.project(x).permute(0, 2, 3, 1).reshape(steps, batch, height, width, r, 2, 2, c)
        y = y.permute(0, 4, 1, 2, 5, 3, 6, 7).reshape(count * r, 2 * height, 2 * width, c)
        return y.permute(0, 3, 1, 2)


class CausalNet(nn.Module):
    """Stages of blocks with a resampling layer between each two: what encoder and decoder share."""

    def __init__(
        self, stages: list[tuple[int, int, int]], resample: Callable[[int, int], nn.Module], ends: tuple[int, int]
    ) -> None:
        """Build with fresh weights.

        Args:
            stages: for each its channels, its number of blocks, and how much smaller than the frame it works.
            resample: makes the layer from one stage's channels to the next one's.
            ends: channels that go in and come out.
        """
        super().__init__()
        widths = [width for width, _, _ in stages]
        self.enter = linear_conv(ends[0], widths[0], 3)
        self.leave = linear_conv(widths[-1], ends[1], 3)
        self.stages = nn.ModuleList(nn.ModuleList(CausalBlock(width) for _ in range(n)) for width, n, _ in stages)
        self.resamples = nn.ModuleList(resample(before, after) for before, after in pairwise(widths))
        self.state_shape = [(width, shrink) for width, n, shrink in stages for _ in range(n)]
        """For each block its channels, and how much smaller than the frame it works."""

    def zero_state(self, batch: int, height: int, width: int, *, device: torch.device, dtype: torch.dtype) -> State:
        """State at the start of a clip of frames `height` x `width` pixels: channels-last zeros."""
        return [
            torch.zeros(batch, c, height // shrink, width // shrink, device=device, dtype=dtype).contiguous(
                memory_format=torch.channels_last
            )
            for c, shrink in self.state_shape
        ]

    def run_stages(self, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, State]:
        """Run all blocks over `[T * B, C, H, W]`; `state` holds one `[B, C, H, W]` a block."""
        batch = state[0].shape[0]
        x = self.enter(x)
        new: State = []
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x, last = block(x, state[len(new)])
                new.append(last)
            if i < len(self.resamples):
                x = self.resamples[i](x, batch)
        return self.leave(x), new


class TinyDecoderNet(CausalNet):
    """The network: latents and state in, frames and state out."""

    def __init__(self) -> None:
        """Build with fresh weights."""
        super().__init__(STAGES, lambda before, after: Upsample(before, after, 2), (TINY_SPEC.channels, 3 * PATCH**2))

    def forward(self, latents: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, State]:
        """Decode a chunk.

        Args:
            latents: `[T * B, channels, h, w]`.
            state: one `[B, C, H, W]` a block.

        Returns:
            Frames `[4 * T * B, 3, 8 * h, 8 * w]` in about `[-1, 1]`, and the new state.
        """
        x, new = self.run_stages(latents.clamp(-LATENT_LIMIT, LATENT_LIMIT), state)
        return functional.pixel_shuffle(x, PATCH), new


class TinyDecoder(RecordedDecoder):
    """`tiny` behind the decoder contract."""

    def __init__(self, net: TinyDecoderNet) -> None:
        """Wrap a network that already is on its device, in its dtype and in evaluation mode."""
        weight = net.enter.weight
        super().__init__(TINY_SPEC, weight.device, weight.dtype)
        self._net = net
        served = weight.device.type == "cuda" and weight.dtype.itemsize == 2  # training has others
        self._engine = open_engine(net) if served else None

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """Zeros: `tiny` starts from nothing, wherever in a clip and however long it will be."""
        del num_latents, first_latent
        height, width = geometry.frame_size(self.spec)
        return self._net.zero_state(1, height, width, device=self._device, dtype=self.dtype)

    def _decode(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if self._engine is not None:
            return self._engine.decode(inputs[0].clamp(-LATENT_LIMIT, LATENT_LIMIT), inputs[1:])
        frames, new = self._net(inputs[0], inputs[1:])
        return [frames, *new]

    def state_bytes(self, geometry: Geometry) -> int:
        """Device memory of one session's state."""
        height, width = geometry.frame_size(self.spec)
        elements = sum(c * (height // shrink) * (width // shrink) for c, shrink in self._net.state_shape)
        itemsize_bytes: int = self.dtype.itemsize
        return elements * itemsize_bytes

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """A block's input, the same twice for the frame before, and what comes of it; beside them the new state."""
        height, width = geometry.frame_size(self.spec)
        channels, shrink = self._net.state_shape[-1]
        itemsize_bytes: int = self.dtype.itemsize
        last_bytes = channels * (height // shrink) * (width // shrink) * itemsize_bytes
        # The last stage has as many times a latent's frames as it is larger than the latent.
        chunk_bytes = last_bytes * num_latents * (self.spec.spatial_factor // shrink)
        libraries_bytes = {"cuda": _LIBRARIES_BYTES, "cpu": 2 * chunk_bytes}.get(self._device.type, 0)
        return 4 * chunk_bytes + self.state_bytes(geometry) - last_bytes + libraries_bytes


def open_engine(net: TinyDecoderNet) -> TinyEngine | None:
    """The network in few passes, after a trial: Triton may be missing, or lack the C compiler that it needs."""
    try:
        from framehaul_pipeline.decoders.tiny_engine import TinyEngine

        engine, weight = TinyEngine(net, PATCH), net.enter.weight
        state = net.zero_state(1, 16, 16, device=weight.device, dtype=weight.dtype)
        with torch.inference_mode():
            engine.decode(weight.new_zeros(1, TINY_SPEC.channels, 2, 2), state)
    except Exception:
        _log.warning("tiny decodes by torch, in twice the time: its kernels failed", exc_info=True)
        return None
    return engine


def load_tiny(model: Model, device: torch.device, plans: PlanTable | None) -> TinyDecoder:
    """Make the decoder that is served: float16 on CUDA, float32 on the CPU.

    Raises:
        InvalidInput: the weights file is not what this version ships.
    """
    del model, plans
    return read_tiny(device, torch.float16 if device.type == "cuda" else torch.float32)


def read_tiny(device: torch.device, dtype: torch.dtype) -> TinyDecoder:
    """Read the shipped weights into a decoder on `device`.

    Raises:
        InvalidInput: the weights file is not what this version ships.
    """
    net = TinyDecoderNet()
    load_weights(net, ASSETS / "tiny.safetensors", WEIGHTS_PREFIX)
    net.requires_grad_(False).eval()
    return TinyDecoder(net.to(device=device, dtype=dtype).to(memory_format=torch.channels_last))


def linear_conv(channels_in: int, channels_out: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps its input's size and, at the start, its variance."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    nn.init.zeros_(_bias(conv))
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
