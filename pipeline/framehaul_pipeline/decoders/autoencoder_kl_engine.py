"""The decoder of diffusers' AutoencoderKL in few passes over memory: cuDNN's convolutions, Triton's kernels between.

For the worker process alone. Computes what the library's module does. Tensors are pictures with channels last,
`[T, H, W, C]`.

* A group norm and its activation are two passes (`group_norm`), and the first of them adds what is to be added.
* Doubling by nearest neighbour and the 3x3 convolution after it are one 2x2 convolution of the small picture.
* The last convolution computes its taps as channels, in float32, and sums them while it writes pixels.

What comes from a group norm, and what a convolution makes of that, has a bound that follows from the weights and the
picture's size: it is kept in float16 when that allows, whose rounding is an eighth of bfloat16's. All else, above all
the sums along the shortcuts, is kept in bfloat16.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framehaul_pipeline.decoders.engine.convolution import Convolutions
from framehaul_pipeline.decoders.engine.group_norm import GroupNorm, settle
from framehaul_pipeline.decoders.engine.pending import Layout, Pending
from framehaul_pipeline.decoders.engine.pixels import sum_taps
from framehaul_pipeline.decoders.engine.weights import (
    FLOAT16_LIMIT,
    Dtypes,
    bias_of,
    linear,
    phase_weights,
    tap_weights,
)

_LATENT_ALIGNMENT: Final = 16
_MAX_SCORES: Final = 1 << 24
"""Of attention, that are in memory at once."""


class _Conv:
    """A 3x3 convolution."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        self.weight = conv.weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = bias_of(conv)


class _Normed:
    """A group norm, SiLU, and a 3x3 convolution."""

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv2d, dtypes: Dtypes) -> None:
        self.norm = GroupNorm(norm)
        self.bias = bias_of(conv)
        self.weights = {dtype: _Conv(conv, dtype).weight for dtype in {dtypes.bounded, dtypes.sums}}
        # A norm leaves a picture of length sqrt(positions * channels), scaled by gamma and moved by beta, and SiLU
        # lengthens nothing: by the Cauchy-Schwarz inequality a filter gives at most its own length times that.
        filters = conv.weight.float().flatten(1)
        length = filters.norm(dim=1).max().item()
        self._length = length * self.norm.largest_gamma * conv.weight.shape[1] ** 0.5
        moved = conv.weight.float().abs().sum((2, 3)) @ self.norm.beta.abs()
        self._moved = moved.max().item() + filters.abs().max().item()

    def dtypes(self, dtypes: Dtypes, num_positions: int) -> Dtypes:
        """What fits a picture of this many positions."""
        bound = max(self.norm.bound(num_positions), self._length * num_positions**0.5 + self._moved)
        return dtypes if bound < FLOAT16_LIMIT else Dtypes(dtypes.sums, dtypes.sums)


class _Block:
    """A residual block."""

    def __init__(self, block: Any, dtypes: Dtypes) -> None:
        self.first = _Normed(block.norm1, block.conv1, dtypes)
        self.second = _Normed(block.norm2, block.conv2, dtypes)
        self.shortcut: Tensor | None = None
        if block.conv_shortcut is not None:
            self.shortcut = linear(block.conv_shortcut, dtypes.sums)[0]
            self.second.bias = self.second.bias + bias_of(block.conv_shortcut)


class _Attention:
    """Norm, projections and attention of one head between them."""

    def __init__(self, attention: Any, dtype: torch.dtype) -> None:
        self.norm = GroupNorm(attention.group_norm)
        parts = [(part.weight.float(), bias_of(part)) for part in (attention.to_q, attention.to_k, attention.to_v)]
        scale = attention.to_q.weight.shape[0] ** -0.5
        parts[0] = (parts[0][0] * scale, parts[0][1] * scale)
        self.qkv, self.qkv_bias = (torch.cat(values).to(dtype).contiguous() for values in zip(*parts, strict=True))
        self.proj = linear(attention.to_out[0], dtype)[0]
        self.bias = bias_of(attention.to_out[0])


class _Upsampling:
    """Doubling and the convolution after it."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        self.weight = phase_weights(conv.weight.float()).to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = bias_of(conv)


class AutoencoderKLEngine:
    """An AutoencoderKL decoder's weights, laid out for one device."""

    def __init__(self, vae: Any, dtypes: Dtypes, convolutions: Convolutions) -> None:
        """Lay out the weights of the library's module, which is on its device in float32 and is not kept."""
        decoder, dtype = vae.decoder, dtypes.sums
        self._dtypes = dtypes
        self._convolutions = convolutions
        conv_in = decoder.conv_in.weight.float()
        channels = conv_in.shape[1]
        # Matrix units take no 4 channels; those that are added are zeros.
        added = -channels % _LATENT_ALIGNMENT
        quant = vae.post_quant_conv
        weight = torch.eye(channels, device=conv_in.device) if quant is None else quant.weight.float().flatten(1)
        bias = conv_in.new_zeros(channels) if quant is None else bias_of(quant)
        self._post_quant = F.pad(weight, (0, 0, 0, added)).to(dtype).contiguous()
        self._post_quant_bias = F.pad(bias, (0, added)).to(dtype)
        self._conv_in = _Conv(decoder.conv_in, dtype)
        padded = F.pad(conv_in, (0, 0, 0, 0, 0, added)).to(dtype)
        self._conv_in.weight = padded.contiguous(memory_format=torch.channels_last)
        mid = decoder.mid_block
        self._mid = [_Block(block, dtypes) for block in mid.resnets]
        self._attentions = [_Attention(attention, dtype) for attention in mid.attentions if attention is not None]
        self._stages = [
            (
                [_Block(block, dtypes) for block in stage.resnets],
                None if stage.upsamplers is None else _Upsampling(stage.upsamplers[0].conv, dtype),
            )
            for stage in decoder.up_blocks
        ]
        self._norm_out = GroupNorm(decoder.conv_norm_out)
        taps = tap_weights(decoder.conv_out.weight.float().unsqueeze(2)).flatten(1)
        self._taps = {dtype: taps.to(dtype).contiguous() for dtype in set(dtypes)}
        self._out_bias = bias_of(decoder.conv_out)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode pictures, each by itself.

        Args:
            latents: `[T, C, h, w]` in the dtype of the sums.

        Returns:
            Pictures `[T, 3, H, W]` in the dtype of the sums.
        """
        x = F.linear(latents.permute(0, 2, 3, 1), self._post_quant, self._post_quant_bias)
        pending = self._convolve(x, self._conv_in.weight, self._conv_in.bias)
        pending = self._block(pending, self._mid[0])
        for index, block in enumerate(self._mid[1:]):
            if self._attentions:
                pending = self._attend(pending, self._attentions[index])
            pending = self._block(pending, block)
        for blocks, upsampling in self._stages:
            for block in blocks:
                pending = self._block(pending, block)
            if upsampling is not None:
                pending = self._upsample(pending, upsampling)
        num_frames, height, width, channels = pending.shape
        dtypes = self._dtypes
        if self._norm_out.bound(height * width) >= FLOAT16_LIMIT:
            dtypes = Dtypes(dtypes.sums, dtypes.sums)
        _, x = self._norm_out.run(pending, dtypes, silu=True)
        taps = _product(x.view(-1, channels), self._taps[x.dtype].t()).view(num_frames, height, width, -1)
        frames = x.new_empty(num_frames, len(self._out_bias), height, width, dtype=self._dtypes.sums)
        sum_taps(taps, self._out_bias, frames, 1, clamp=False)
        return frames

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Pending:
        shape = (*x.shape[:3], bias.shape[0])
        return Pending(self._convolutions.run(x, weight, 1), Layout.FRAMES, shape, bias)

    def _normed(self, pending: Pending, normed: _Normed, *, sums: bool = False) -> tuple[Tensor | None, Pending]:
        dtypes = normed.dtypes(self._dtypes, pending.shape[1] * pending.shape[2])
        entered, x = normed.norm.run(pending, dtypes, silu=True, sums=sums)
        return entered, self._convolve(x, normed.weights[x.dtype], normed.bias)

    def _block(self, pending: Pending, block: _Block) -> Pending:
        entered, pending = self._normed(pending, block.first, sums=True)
        assert entered is not None
        _, pending = self._normed(pending, block.second)
        pending.residual = entered if block.shortcut is None else F.linear(entered, block.shortcut)
        return pending

    def _attend(self, pending: Pending, attention: _Attention) -> Pending:
        shape = pending.shape
        entered, x = attention.norm.run(pending, Dtypes(self._dtypes.sums, self._dtypes.sums), silu=False, sums=True)
        tokens = F.linear(x.flatten(1, 2), attention.qkv, attention.qkv_bias)
        attended = torch.stack([_attend(*picture.chunk(3, dim=-1)) for picture in tokens])
        y = F.linear(attended, attention.proj).view(shape)
        return Pending(y, Layout.FRAMES, shape, attention.bias, entered)

    def _upsample(self, pending: Pending, upsampling: _Upsampling) -> Pending:
        num_frames, height, width, _ = pending.shape
        phases = self._convolutions.run(settle(pending, self._dtypes.sums), upsampling.weight, 1)
        shape = (num_frames, 2 * height, 2 * width, upsampling.bias.shape[0])
        return Pending(phases, Layout.PHASES, shape, upsampling.bias)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over `[P, C]`: heads are too wide for fused kernels. Scores are in float32."""
    keys = k.t()
    rows = max(1, _MAX_SCORES // len(k))
    return torch.cat([torch.softmax(_product(part, keys), dim=1).to(v.dtype) @ v for part in q.split(rows)])


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Of matrices, in float32."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
