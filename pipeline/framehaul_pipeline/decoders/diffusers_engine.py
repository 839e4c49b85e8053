"""The decoders of diffusers' AutoencoderKL and AutoencoderKLHunyuanVideo in few passes over memory, on CUDA.

For the worker process alone. Computes what the library's modules do: cuDNN's convolutions, Triton's kernels between.
Tensors are frames with channels last, `[T, H, W, C]`. Those of AutoencoderKL are pictures, each by itself. Those of
HunyuanVideo are a clip: its convolutions are causal, its norms span all frames, and what lies outside a frame is what
is nearest to it, not zeros.

* A group norm and its activation are two passes (`group_norm`). The first of them adds what is to be added, the second
  makes a clip's edges.
* Doubling by nearest neighbour and the 3x3 convolution after it are one 2x2 convolution of the small picture. Where
  time is doubled too it is one 2x2x2 convolution of the small clip.
* The last convolution computes its taps as channels, in float32, and sums them while it writes pixels.

What comes from a group norm, and what a convolution makes of that, has a bound that follows from the weights and the
size: it is kept in float16 when that allows, whose rounding is an eighth of bfloat16's. All else, above all the sums
along the shortcuts, is kept in bfloat16.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framehaul_pipeline.decoders.cuda_graphs import CudaGraphs
from framehaul_pipeline.decoders.engine.convolution import Convolutions
from framehaul_pipeline.decoders.engine.group_norm import NO_EDGES, Edges, GroupNorm, settle
from framehaul_pipeline.decoders.engine.pending import Layout, Pending
from framehaul_pipeline.decoders.engine.pixels import sum_taps
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.decoders.engine.weights import (
    FLOAT16_LIMIT,
    Dtypes,
    bias_of,
    laid_out,
    linear,
    longest_filter,
    phase_weights,
    tap_weights,
)

_LATENT_ALIGNMENT: Final = 16
_MAX_SCORES: Final = 1 << 24
"""Of attention, that are in memory at once."""


class _Normed:
    """A group norm, SiLU, and a convolution."""

    def __init__(self, norm: nn.GroupNorm, module: nn.Module, dtypes: Dtypes) -> None:
        conv = _convolution(module)
        weight = conv.weight.float()
        clip = weight.dim() == 5
        self.norm = GroupNorm(norm, over_time=clip)
        self.bias = bias_of(conv)
        self.weights = {dtype: laid_out(weight, dtype) for dtype in set(dtypes)}
        # A norm leaves numbers of length sqrt(positions * channels), scaled by gamma and moved by beta, and SiLU
        # lengthens nothing: by the Cauchy-Schwarz inequality a filter gives at most its own length times that.
        length = longest_filter(weight, edges=clip)
        self._length = length * self.norm.largest_gamma * weight.shape[1] ** 0.5
        moved = weight.abs().flatten(2).sum(2) @ self.norm.beta.abs()
        self._moved = moved.max().item() + weight.abs().max().item()

    def dtypes(self, dtypes: Dtypes, shape: tuple[int, int, int, int]) -> Dtypes:
        """What fits frames of this shape."""
        num_positions = self.norm.num_positions(shape)
        bound = max(self.norm.bound(num_positions), self._length * num_positions**0.5 + self._moved)
        return dtypes if bound < FLOAT16_LIMIT else Dtypes(dtypes.sums, dtypes.sums)


class _Block:
    """A residual block."""

    def __init__(self, block: Any, dtypes: Dtypes) -> None:
        self.first = _Normed(block.norm1, block.conv1, dtypes)
        self.second = _Normed(block.norm2, block.conv2, dtypes)
        self.shortcut: Tensor | None = None
        if block.conv_shortcut is not None:
            shortcut = _convolution(block.conv_shortcut)
            self.shortcut = linear(shortcut, dtypes.sums)[0]
            self.second.bias = self.second.bias + bias_of(shortcut)


class _Attention:
    """Norm, projections and attention of one head between them."""

    def __init__(self, attention: Any, dtype: torch.dtype, *, clip: bool) -> None:
        self.norm = GroupNorm(attention.group_norm, over_time=clip)
        parts = [(part.weight.float(), bias_of(part)) for part in (attention.to_q, attention.to_k, attention.to_v)]
        scale = attention.to_q.weight.shape[0] ** -0.5
        parts[0] = (parts[0][0] * scale, parts[0][1] * scale)
        self.qkv, self.qkv_bias = (torch.cat(values).to(dtype).contiguous() for values in zip(*parts, strict=True))
        self.proj = linear(attention.to_out[0], dtype)[0]
        self.bias = bias_of(attention.to_out[0])


class _Upsampling:
    """Doubling and the convolution after it."""

    def __init__(self, upsampler: Any, dtype: torch.dtype) -> None:
        conv = _convolution(upsampler.conv)
        self.time = getattr(upsampler, "upsample_factor", (1, 2, 2))[0] == 2
        self.weight = laid_out(phase_weights(conv.weight.float(), time=self.time), dtype)
        self.bias = bias_of(conv)


class DiffusersEngine:
    """A decoder's weights, laid out for one device."""

    def __init__(self, vae: Any, dtypes: Dtypes, convolutions: Convolutions) -> None:
        """Lay out the weights of the library's module, which is on its device in float32 and is not kept."""
        decoder, dtype = vae.decoder, dtypes.sums
        self._dtypes = dtypes
        self._convolutions = convolutions
        conv_in = _convolution(decoder.conv_in)
        weight = conv_in.weight.float()
        self._clip = weight.dim() == 5
        channels = weight.shape[1]
        # Matrix units take no 4 channels; those that are added are zeros.
        added = -channels % _LATENT_ALIGNMENT
        quant = vae.post_quant_conv
        mixed = torch.eye(channels, device=weight.device) if quant is None else quant.weight.float().flatten(1)
        bias = weight.new_zeros(channels) if quant is None else bias_of(quant)
        self._post_quant = F.pad(mixed, (0, 0, 0, added)).to(dtype).contiguous()
        self._post_quant_bias = F.pad(bias, (0, added)).to(dtype)
        self._conv_in = laid_out(F.pad(weight, (0, 0) * (weight.dim() - 2) + (0, added)), dtype)
        self._conv_in_bias = bias_of(conv_in)
        mid = decoder.mid_block
        self._mid = [_Block(block, dtypes) for block in mid.resnets]
        attentions = [attention for attention in mid.attentions if attention is not None]
        self._attentions = [_Attention(attention, dtype, clip=self._clip) for attention in attentions]
        self._stages = [
            (
                [_Block(block, dtypes) for block in stage.resnets],
                None if stage.upsamplers is None else _Upsampling(stage.upsamplers[0], dtype),
            )
            for stage in decoder.up_blocks
        ]
        self._norm_out = GroupNorm(decoder.conv_norm_out, over_time=self._clip)
        conv_out = _convolution(decoder.conv_out)
        steps = conv_out.weight.float().split(1, dim=2) if self._clip else (conv_out.weight.float().unsqueeze(2),)
        taps = torch.cat([tap_weights(step).flatten(1) for step in steps])
        self._taps = {dtype: taps.to(dtype).contiguous() for dtype in set(dtypes)}
        self._out_bias = bias_of(conv_out)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode pictures, each by itself, or a clip.

        Args:
            latents: `[T, C, h, w]` in the dtype of the sums.

        Returns:
            Frames `[F, 3, H, W]` in the dtype of the sums.
        """
        x = F.linear(latents.permute(0, 2, 3, 1), self._post_quant, self._post_quant_bias)
        pending = self._convolve(self._settle(_pending(x), self._conv_in), self._conv_in, self._conv_in_bias)
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
        if self._norm_out.bound(self._norm_out.num_positions(pending.shape)) >= FLOAT16_LIMIT:
            dtypes = Dtypes(dtypes.sums, dtypes.sums)
        _, x = self._norm_out.run(pending, dtypes, silu=True)
        taps = _product(x.view(-1, channels), self._taps[x.dtype].t()).view(num_frames, height, width, -1)
        frames = x.new_empty(num_frames, len(self._out_bias), height, width, dtype=self._dtypes.sums)
        sum_taps(taps, self._out_bias, frames, 1, clamp=False, causal=self._clip)
        return frames

    def _settle(self, pending: Pending, weight: Tensor) -> Tensor:
        return settle(pending, self._dtypes.sums, _edges(weight))

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Pending:
        return _pending(self._convolutions.run(x, weight, 0 if self._clip else 1), bias)

    def _normed(self, pending: Pending, normed: _Normed, *, sums: bool = False) -> tuple[Tensor | None, Pending]:
        dtypes = normed.dtypes(self._dtypes, pending.shape)
        weight = normed.weights[dtypes.bounded]
        entered, x = normed.norm.run(pending, dtypes, _edges(weight), silu=True, sums=sums)
        return entered, self._convolve(x, weight, normed.bias)

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
        q, k, v = tokens.chunk(3, dim=-1)
        seen = [slice(0 if self._clip else frame, frame + 1) for frame in range(shape[0])]
        attended = [
            _attend(q[frame], *(each[past].flatten(0, 1) for each in (k, v))) for frame, past in enumerate(seen)
        ]
        y = F.linear(torch.stack(attended), attention.proj).view(shape)
        return Pending(y, Layout.FRAMES, shape, attention.bias, entered)

    def _upsample(self, pending: Pending, upsampling: _Upsampling) -> Pending:
        num_frames, height, width, _ = pending.shape
        phases = self._convolve(self._settle(pending, upsampling.weight), upsampling.weight, upsampling.bias)
        layout = Layout.TIME_PHASES if upsampling.time else Layout.PHASES
        doubled = 2 * num_frames - 1 if upsampling.time else num_frames
        return Pending(phases.source, layout, (doubled, 2 * height, 2 * width, len(upsampling.bias)), upsampling.bias)


class RecordedEngine:
    """An engine in half precision behind CUDA graphs of the inputs that it was prepared for."""

    def __init__(self, vae: Any, device: torch.device, plans: PlanTable | None) -> None:
        """Lay out the weights of the library's module in float32; without `plans`, PyTorch runs its convolutions."""
        # Frames' bits must not depend on which plan another server found the fastest, nor on the chunk they are in.
        self._convolutions = Convolutions(device, plans, reproducible=True)
        self._engine = DiffusersEngine(vae, Dtypes(torch.float16, torch.bfloat16), self._convolutions)
        self._graphs = CudaGraphs(device)

    @property
    def is_preparing(self) -> bool:
        """Whether `decode` takes time to find the fastest kernels, and records what it does for later inputs."""
        return self._convolutions.timing

    def preparing(self) -> AbstractContextManager[None]:
        """Within it, `is_preparing` is true."""
        return self._convolutions.timed()

    def forget(self) -> None:
        """Drop what was recorded; plans stay."""
        self._graphs.forget()

    def decode(self, latents: Tensor) -> Tensor:
        """Decode `[T, C, h, w]` to frames `[F, 3, H, W]`, valid until the next decode of that shape."""
        if latents.shape in self._graphs:
            return self._graphs.run(latents.shape, [latents])[0]
        frames = self._engine.decode(latents)
        if self.is_preparing:
            self._graphs.record(latents.shape, [latents], lambda inputs: [self._engine.decode(inputs[0])])
        return frames

    def record(self, latents: Tensor) -> None:
        """Decode latents of a new shape, while preparing, for the sake of later ones."""
        if latents.shape not in self._graphs:
            self.decode(latents)


def _convolution(module: nn.Module) -> Any:
    """The convolution itself: HunyuanVideo's stands in a module that pads."""
    return getattr(module, "conv", module)


def _edges(weight: Tensor) -> Edges:
    """What a convolution by these weights needs around its frames."""
    return Edges(frames=weight.shape[2] - 1, cells=1) if weight.dim() == 5 else NO_EDGES


def _pending(x: Tensor, bias: Tensor | None = None) -> Pending:
    num_frames, height, width, channels = x.shape
    return Pending(x, Layout.FRAMES, (num_frames, height, width, channels), bias)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of `[P, C]` over `[K, C]`: heads are too wide for fused kernels. Scores are in float32."""
    keys = k.t()
    rows = max(1, _MAX_SCORES // len(k))
    return torch.cat([torch.softmax(_product(part, keys), dim=1).to(v.dtype) @ v for part in q.split(rows)])


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Of matrices, in float32."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
