"""The built-in encoder of `tiny`: frames in, latents out, as a stream with the decoder's kind of state. Imports torch."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.tiny import LATENT_LIMIT, PATCH, CausalBlock, linear_conv
from framehaul_pipeline.models import TINY_SPEC
from framehaul_pipeline.weights import ASSETS, load_weights

WIDTHS: Final = (64, 96, 128)
"""Channels at 1/2, 1/4 and 1/8 of the frame's size."""
DEPTHS: Final = (2, 1, 1)
"""Blocks at each size."""
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


class TinyEncoderNet(nn.Module):
    """The network: frames and state in, latents and state out."""

    def __init__(
        self,
        channels: int = TINY_SPEC.channels,
        widths: tuple[int, ...] = WIDTHS,
        depths: tuple[int, ...] = DEPTHS,
    ) -> None:
        """Build with fresh weights; other sizes than the shipped ones are for tests and trials."""
        super().__init__()
        self.enter = linear_conv(3 * PATCH**2, widths[0], 3)
        self.leave = linear_conv(widths[-1], channels, 3)
        self.stages = nn.ModuleList(
            nn.ModuleList(CausalBlock(width) for _ in range(depth)) for width, depth in zip(widths, depths, strict=True)
        )
        self.downsamples = nn.ModuleList(Downsample(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.state_shape = [
            (width, shrink) for i, width in enumerate(widths) for shrink in [PATCH << i] for _ in range(depths[i])
        ]
        """For each block its channels and by how much smaller than the frame it is."""

    def zero_state(self, batch: int, height: int, width: int, *, device: torch.device, dtype: torch.dtype) -> State:
        """State at the start of a clip of frames `height` x `width` pixels: channels-last zeros."""
        return [
            torch.zeros(batch, c, height // shrink, width // shrink, device=device, dtype=dtype).contiguous(
                memory_format=torch.channels_last
            )
            for c, shrink in self.state_shape
        ]

    def forward(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """Encode a chunk.

        Args:
            frames: `[4 * T * B, 3, 8 * h, 8 * w]` in `[-1, 1]`.
            state: one `[B, C, H, W]` a block.

        Returns:
            Latents `[T * B, channels, h, w]` in (-3, 3), float32, and the new state.
        """
        batch = state[0].shape[0]
        x = self.enter(functional.pixel_unshuffle(frames, PATCH))
        new: State = []
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                assert isinstance(block, CausalBlock)
                x, last = block(x, state[len(new)])
                new.append(last)
            if i < len(self.downsamples):
                x = self.downsamples[i](x, batch)
        return LATENT_LIMIT * torch.tanh(self.leave(x).float() / LATENT_LIMIT), new


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
        return latents, [last.clone(memory_format=torch.channels_last) for last in new]


def load_tiny_encoder(device: torch.device, dtype: torch.dtype) -> TinyEncoder:
    """Read the shipped weights into an encoder on `device`.

    Raises:
        InvalidInput: the weights file is not what this version ships.
    """
    net = TinyEncoderNet()
    load_weights(net, ASSETS / "tiny.safetensors", WEIGHTS_PREFIX)
    net.requires_grad_(False).eval()
    return TinyEncoder(net.to(device=device, dtype=dtype).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
