"""The built-in encoder of `tiny`: frames in, latents out, streaming as the decoder does. Imports torch."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.tiny import LATENT_LIMIT, PATCH, CausalNet, linear_conv
from framehaul_pipeline.decoders.weights import ASSETS, load_weights
from framehaul_pipeline.models.model import TINY_SPEC

STAGES: Final = [(64, 2, 2), (96, 1, 4), (128, 1, 8)]
"""Channels, number of blocks, and how much smaller than the frame they work."""
WEIGHTS_PREFIX: Final = "encoder."


class Downsample(nn.Module):
    """Two frames of 2x2 positions to channels, then a 1x1 convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.project = linear_conv(channels_in * 8, channels_out, 1)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map `[2 * T * B, C, 2 * H, 2 * W]` to `[T * B, channels_out, H, W]`."""
        count, c, height, width = x.shape
        steps = count // batch // 2
        y = x.permute(0, 2, 3, 1).reshape(steps, 2, batch, height // 2, 2, width // 2, 2, c)
        y = y.permute(0, 2, 3, 5, 1, 4, 6, 7).reshape(count // 2, height // 2, width // 2, 8 * c)
        out: Tensor = self.project(y.permute(0, 3, 1, 2))
        return out


class TinyEncoderNet(CausalNet):
    """The network: frames and state in, latents and state out."""

    def __init__(self) -> None:
        """Build with fresh weights."""
        super().__init__(STAGES, Downsample, (3 * PATCH**2, TINY_SPEC.channels))

    def forward(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """Encode a chunk.

        Args:
            frames: `[4 * T * B, 3, 8 * h, 8 * w]` in `[-1, 1]`.
            state: one `[B, C, H, W]` a block.

        Returns:
            Latents `[T * B, channels, h, w]` in (-3, 3), float32, and the new state.
        """
        x, new = self.run_stages(functional.pixel_unshuffle(frames, PATCH), state)
        return LATENT_LIMIT * torch.tanh(x.float() / LATENT_LIMIT), new


class TinyEncoder:
    """The encoder as a function of a chunk of frames and a state."""

    def __init__(self, net: TinyEncoderNet) -> None:
        """Wrap a network that already is on its device, in its dtype and in evaluation mode."""
        self._net = net
        self.device, self.dtype = net.enter.weight.device, net.enter.weight.dtype

    def open(self, height: int, width: int) -> State:
        """State at the start of a clip of frames `height` x `width` pixels, both multiples of 8."""
        return self._net.zero_state(1, height, width, device=self.device, dtype=self.dtype)

    @torch.inference_mode()
    def step(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """Encode frames `[4 * T, 3, H, W]` in `[-1, 1]` to latents `[T, 16, H / 8, W / 8]`, float32."""
        frames = frames.to(device=self.device, dtype=self.dtype).contiguous(memory_format=torch.channels_last)
        latents, new = self._net(frames, state)
        return latents, new


def load_tiny_encoder(device: torch.device, dtype: torch.dtype) -> TinyEncoder:
    """Read the shipped weights into an encoder on `device`.

    Raises:
        InvalidInput: the weights file is not what this version ships.
    """
    net = TinyEncoderNet()
    load_weights(net, ASSETS / "tiny.safetensors", WEIGHTS_PREFIX)
    net.requires_grad_(False).eval()
    return TinyEncoder(net.to(device=device, dtype=dtype).to(memory_format=torch.channels_last))
