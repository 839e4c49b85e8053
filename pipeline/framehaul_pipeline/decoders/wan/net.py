"""Wan's decoder network (2.1, 2.2 and QwenImage) with its temporal state as a value: the portable form, plain torch.

Parameters have the names that diffusers' `AutoencoderKLWan` gives them. What is computed is that class's decode, one
chunk at a time: each causal convolution sees the two frames before its own, which the state holds, so any chunking
gives the same frames. Source of the structure: huggingface/diffusers 0.42,
`models/autoencoders/autoencoder_kl_wan.py`.

`wan_engine` computes the same on CUDA in fewer passes over memory; this form serves the CPU, and it is the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framehaul_pipeline.models.wan import WanConfig

HISTORY: Final = 2
"""Frames before its own that a convolution of temporal kernel 3 sees."""
_MIN_NORM: Final = 1e-12

Histories = Iterator[Tensor]
"""For each causal convolution, in the order they run, its history `[2, h, w, C]`: read, then overwritten."""


class RmsNorm(nn.Module):
    """Each position's channels divided by their root mean square, and scaled."""

    def __init__(self, channels: int, num_dims: int) -> None:
        """Build for tensors with `num_dims` dimensions after the channels."""
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * num_dims))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, ...]` to the same shape."""
        normalized = F.normalize(x.float(), dim=1, eps=_MIN_NORM).to(x.dtype)
        scaled: Tensor = normalized * x.shape[1] ** 0.5 * self.gamma
        return scaled


class CausalConv3d(nn.Conv3d):
    """Convolution whose kernel ends at its own frame."""

    def __init__(self, channels_in: int, channels_out: int, kernel: tuple[int, int, int]) -> None:
        """Build with `kernel` frames, rows and columns; space is padded to keep its size."""
        super().__init__(channels_in, channels_out, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def step(self, x: Tensor, histories: Histories) -> Tensor:
        """Map `[1, C, T, h, w]`, with the frames before it, to `[1, C', T, h, w]`."""
        history = next(histories)
        joined = torch.cat([history.permute(3, 0, 1, 2).unsqueeze(0), x], dim=2)
        history.copy_(joined[0, :, -HISTORY:].permute(1, 2, 3, 0))
        y: Tensor = self(joined)
        return y


class ResidualBlock(nn.Module):
    """Two times norm, SiLU and causal convolution, beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.norm1 = RmsNorm(channels_in, 3)
        self.conv1 = CausalConv3d(channels_in, channels_out, (3, 3, 3))
        self.norm2 = RmsNorm(channels_out, 3)
        self.conv2 = CausalConv3d(channels_out, channels_out, (3, 3, 3))
        self.conv_shortcut = (
            CausalConv3d(channels_in, channels_out, (1, 1, 1)) if channels_in != channels_out else nn.Identity()
        )

    def step(self, x: Tensor, histories: Histories) -> Tensor:
        """Map `[1, C, T, h, w]` to `[1, C', T, h, w]`."""
        y = self.conv1.step(F.silu(self.norm1(x)), histories)
        y = self.conv2.step(F.silu(self.norm2(y)), histories)
        return y + cast(Tensor, self.conv_shortcut(x))


class Attention(nn.Module):
    """Self-attention over the positions of each frame, one head."""

    def __init__(self, channels: int) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.norm = RmsNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[1, C, T, h, w]` to the same shape."""
        frames = x[0].transpose(0, 1)
        tokens = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).unsqueeze(1)
        attended = F.scaled_dot_product_attention(*tokens.chunk(3, dim=-1))
        y: Tensor = self.proj(attended.squeeze(1).transpose(1, 2).reshape(frames.shape))
        return x + y.transpose(0, 1).unsqueeze(0)


class Upsample(nn.Module):
    """Doubles height and width, and frames too when `time`."""

    def __init__(self, channels_in: int, channels_out: int, *, time: bool) -> None:
        """Build with fresh weights."""
        super().__init__()
        # Names and places in the sequence are the published ones; nearest-neighbour doubling has no weights.
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        )
        self.time = time
        if time:
            self.time_conv = CausalConv3d(channels_in, 2 * channels_in, (3, 1, 1))

    def step(self, x: Tensor, histories: Histories, *, first: bool) -> Tensor:
        """Map `[1, C, T, h, w]` to `[1, C', T or 2 * T, 2 * h, 2 * w]`; a clip's `first` latent stays one frame."""
        _, channels, _, height, width = x.shape
        if self.time and first:
            next(histories)
        elif self.time:
            y = self.time_conv.step(x, histories)[0].view(2, channels, -1, height, width)
            x = y.permute(1, 2, 0, 3, 4).reshape(1, channels, -1, height, width)
        frames: Tensor = self.resample(x[0].transpose(0, 1))
        return frames.transpose(0, 1).unsqueeze(0)


class UpBlock(nn.Module):
    """Residual blocks, then upsampling in all stages but the last."""

    def __init__(
        self, channels_in: int, channels_out: int, *, num_blocks: int, upsample: Upsample | None, residual: bool
    ) -> None:
        """Build with fresh weights; `residual` adds Wan 2.2's shortcut around the whole stage."""
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(channels_out if i else channels_in, channels_out) for i in range(num_blocks)
        )
        self.residual = residual
        if upsample is not None and residual:
            self.upsampler = upsample
        elif upsample is not None:
            self.upsamplers = nn.ModuleList([upsample])
        self.has_upsample = upsample is not None

    @property
    def upsample(self) -> Upsample | None:
        """The layer that ends the stage."""
        if not self.has_upsample:
            return None
        return self.upsampler if self.residual else cast(Upsample, self.upsamplers[0])

    def step(self, x: Tensor, histories: Histories, *, first: bool) -> Tensor:
        """Map `[1, C, T, h, w]` to the next stage's input."""
        entered = x
        for block in self.resnets:
            x = cast(ResidualBlock, block).step(x, histories)
        if (upsample := self.upsample) is not None:
            x = upsample.step(x, histories, first=first)
            if self.residual:
                x = x + duplicate(entered, x.shape[1], time=upsample.time, first=first)
        return x


class MidBlock(nn.Module):
    """A residual block, attention, a residual block."""

    def __init__(self, channels: int) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels)])
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels), ResidualBlock(channels, channels)])

    def step(self, x: Tensor, histories: Histories) -> Tensor:
        """Map `[1, C, T, h, w]` to the same shape."""
        before, after = (cast(ResidualBlock, block) for block in self.resnets)
        return after.step(self.attentions[0](before.step(x, histories)), histories)


class Decoder(nn.Module):
    """From latents after `post_quant_conv` to pixels; some models give several a position, column by column."""

    def __init__(self, config: WanConfig) -> None:
        """Build with fresh weights."""
        super().__init__()
        num_stages = len(config.dim_mult)
        widths = [config.decoder_base_dim * mult for mult in (config.dim_mult[-1], *reversed(config.dim_mult))]
        doubles_time = tuple(reversed(config.temperal_downsample))
        self.conv_in = CausalConv3d(config.z_dim, widths[0], (3, 3, 3))
        self.mid_block = MidBlock(widths[0])
        self.up_blocks = nn.ModuleList()
        for i, channels_out in enumerate(widths[1:]):
            channels_in = widths[i] if config.is_residual or i == 0 else widths[i] // 2
            upsample = None
            if i < num_stages - 1:
                upsampled = channels_out if config.is_residual else channels_out // 2
                upsample = Upsample(channels_out, upsampled, time=doubles_time[i])
            self.up_blocks.append(
                UpBlock(
                    channels_in,
                    channels_out,
                    num_blocks=config.num_res_blocks + 1,
                    upsample=upsample,
                    residual=config.is_residual,
                )
            )
        self.norm_out = RmsNorm(widths[-1], 3)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels, (3, 3, 3))

    @property
    def stages(self) -> list[UpBlock]:
        """The stages, from the smallest frames to the largest."""
        return [cast(UpBlock, block) for block in self.up_blocks]


class WanNet(nn.Module):
    """The decoding half of `AutoencoderKLWan`."""

    def __init__(self, config: WanConfig) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.config = config
        self.post_quant_conv = nn.Conv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over weights: all that diffusers' class has for decoding, by its names.

        Without patches, several pixels of a position come row by row, as `pixel_shuffle` takes them. They are put in
        the order of patches here, so that nothing behind must know of two.
        """
        tensors = dict(tensors)
        if self.config.patch_size == 1:
            pixels = self.config.pixels
            for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
                rows_first = tensors[name].unflatten(0, (-1, pixels, pixels))
                tensors[name] = rows_first.transpose(1, 2).flatten(0, 2)
        self.load_state_dict(tensors, strict=True, assign=True)

    def step(self, latents: Tensor, histories: Histories, *, first: bool) -> Tensor:
        """Decode a chunk.

        Args:
            latents: `[T, C, h, w]`; a clip's first latent comes alone.
            histories: of the session's state; overwritten.
            first: these latents start the clip.

        Returns:
            Frames `[F, 3, H, W]` in `[-1, 1]`: 1 for a clip's first latent, then 4 a latent (as the model is built).
        """
        decoder = self.decoder
        x = decoder.conv_in.step(self.post_quant_conv(latents.transpose(0, 1).unsqueeze(0)), histories)
        x = decoder.mid_block.step(x, histories)
        for stage in decoder.stages:
            x = stage.step(x, histories, first=first)
        y = decoder.conv_out.step(F.silu(decoder.norm_out(x)), histories)
        return unpatchify(y[0].transpose(0, 1), self.config.pixels).clamp(-1.0, 1.0)


def duplicate(x: Tensor, channels_out: int, *, time: bool, first: bool) -> Tensor:
    """Wan 2.2's shortcut around a stage: channels to positions by repeating, `[1, C, T, h, w]` to twice each way."""
    _, channels, steps, height, width = x.shape
    factor = 2 if time else 1
    repeats = channels_out * factor * 4 // channels
    x = x.repeat_interleave(repeats, dim=1).view(1, channels_out, factor, 2, 2, steps, height, width)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(1, channels_out, steps * factor, 2 * height, 2 * width)
    return x[:, :, factor - 1 :] if first else x


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """Channels to positions, `[F, 3 * patch**2, h, w]` to `[F, 3, patch * h, patch * w]`."""
    if patch == 1:
        return x
    frames, channels, height, width = x.shape
    x = x.view(frames, channels // patch**2, patch, patch, height, width).permute(0, 1, 4, 3, 5, 2)
    return x.reshape(frames, channels // patch**2, height * patch, width * patch)
