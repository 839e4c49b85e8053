"""Wan's decoder in few passes over memory: cuDNN's convolutions, and one Triton kernel between each two.

For the worker process alone. Computes what `wan_net` does. Tensors are frames with channels last, `[T, H, W, C]`.

* Between two convolutions stands one kernel (`wan_kernels.fuse`): it adds the bias and the residual, normalises,
  activates, puts the two frames of history in front and keeps the new history. Nothing is padded, joined or cloned.
* Convolutions over pairs of frames run as F(2, 3) in time: 4 two-dimensional convolutions instead of 6 (`PLANES`).
* Doubling by nearest neighbour and the 3x3 convolution after it are one 2x2 convolution of the small frame, whose
  output holds the four phases of the doubled one (`PHASES`): 4/9 of the work, and no doubled frame in memory.
* The last convolution computes its taps as channels and sums them while it writes pixels.

All are the same sums in another order. What comes from a norm, and what a convolution makes of that, has a bound that
follows from the weights (`magnitude_bound`), and is kept in float16 when the bound allows: its rounding is an eighth of
bfloat16's, which more than pays for F(2, 3)'s differences. What has no bound, the sums along the shortcuts and what
reads them, is kept in bfloat16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framehaul_pipeline.decoders.convolution import Convolutions
from framehaul_pipeline.decoders.wan_kernels import Layout, fuse, sum_taps
from framehaul_pipeline.decoders.wan_net import (
    HISTORY,
    Attention,
    CausalConv3d,
    ResidualBlock,
    RmsNorm,
    Upsample,
    WanNet,
    duplicate,
)

_MIN_PAIRS_FRAMES: Final = 4
"""Fewer frames than these are too little work for a two-dimensional convolution of half of them."""
_TAPS_ALIGNMENT: Final = 32


class Dtypes(NamedTuple):
    """Element types of what the engine keeps between kernels; both of one size."""

    bounded: torch.dtype
    """What comes from a norm, and what a convolution makes of it."""
    sums: torch.dtype
    """Sums along the shortcuts, and what reads them."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """Frames that a convolution has begun: what is to be added to them is added by the kernel that reads them."""

    source: Tensor
    layout: Layout
    shape: tuple[int, int, int, int]
    """`(T, H, W, C)` of the frames."""
    bias: Tensor | None = None
    residual: Tensor | None = None

    @property
    def settled(self) -> bool:
        """Whether the source is the frames themselves."""
        return self.layout is Layout.FRAMES and self.bias is None and self.residual is None


class _Norm:
    def __init__(self, norm: RmsNorm) -> None:
        channels = norm.gamma.shape[0]
        self.gamma = (norm.gamma.flatten().float() * channels**0.5).contiguous()


class _Conv:
    """A causal 3x3x3 convolution: its weights for frames, and for planes."""

    def __init__(self, conv: CausalConv3d, dtype: torch.dtype) -> None:
        weight = conv.weight.float()
        before, at, after = weight.unbind(2)
        self.weight = weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        self.planes = [
            plane.to(dtype).contiguous(memory_format=torch.channels_last)
            for plane in (before, (before + at + after) / 2, (before - at + after) / 2, after)
        ]
        self.bias = _bias(conv)


class _Block:
    def __init__(self, block: ResidualBlock, dtypes: Dtypes) -> None:
        self.norm1, self.norm2 = _Norm(block.norm1), _Norm(block.norm2)
        self.conv1, self.conv2 = _Conv(block.conv1, dtypes.bounded), _Conv(block.conv2, dtypes.bounded)
        self.bias = self.conv2.bias
        self.shortcut: Tensor | None = None
        if isinstance(block.conv_shortcut, CausalConv3d):
            self.shortcut = block.conv_shortcut.weight.flatten(1).to(dtypes.sums).contiguous()
            self.bias = self.bias + _bias(block.conv_shortcut)


class _Attention:
    def __init__(self, attention: Attention, dtype: torch.dtype) -> None:
        self.norm = _Norm(attention.norm)
        self.qkv, self.qkv_bias = _linear(attention.to_qkv, dtype)
        self.proj = attention.proj.weight.flatten(1).to(dtype).contiguous()
        self.proj_bias = _bias(attention.proj)


class _Upsample:
    def __init__(self, upsample: Upsample, dtype: torch.dtype) -> None:
        conv = upsample.resample[1]
        assert isinstance(conv, nn.Conv2d)
        self.weight = phase_weights(conv.weight.float()).to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = _bias(conv)
        self.time = upsample.time
        if upsample.time:
            self.time_weight = upsample.time_conv.weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
            self.time_bias = upsample.time_conv.bias.to(dtype)  # type: ignore[union-attr]


class WanEngine:
    """A Wan decoder's weights, laid out for one device."""

    def __init__(self, net: WanNet, dtypes: Dtypes, convolutions: Convolutions) -> None:
        """Lay out the weights of `net`, which is on its device in float32; `net` is not needed any more."""
        decoder = net.decoder
        self._dtypes = dtypes
        self._convolutions = convolutions
        self._config = net.config
        self._post_quant, self._post_quant_bias = _linear(net.post_quant_conv, dtypes.sums)
        self._conv_in = _Conv(decoder.conv_in, dtypes.sums)
        mid = decoder.mid_block
        self._mid = [_Block(block, dtypes) for block in mid.resnets if isinstance(block, ResidualBlock)]
        attention = mid.attentions[0]
        assert isinstance(attention, Attention)
        self._attention = _Attention(attention, dtypes.bounded)
        self._stages = [
            (
                [_Block(block, dtypes) for block in stage.resnets if isinstance(block, ResidualBlock)],
                None if stage.upsample is None else _Upsample(stage.upsample, dtypes.sums),
            )
            for stage in decoder.stages
        ]
        self._norm_out = _Norm(decoder.norm_out)
        self._taps = tap_weights(decoder.conv_out.weight.float()).to(dtypes.bounded)
        self._taps = self._taps.contiguous(memory_format=torch.channels_last_3d)
        self._out_bias = _bias(decoder.conv_out)
        self._state = torch.zeros(1, dtype=torch.int64, device=self._out_bias.device)
        self._offset = 0

    def set_state(self, state: Tensor) -> None:
        """Let the next chunk read and overwrite `state`, the histories end to end."""
        self._state.fill_(state.data_ptr())

    def decode(self, latents: Tensor, *, first: bool) -> Tensor:
        """Decode a chunk of the session whose state was set.

        Args:
            latents: `[T, C, h, w]` in the dtype of the sums; a clip's first latent comes alone.
            first: these latents start the clip.

        Returns:
            Frames `[F, 3, H, W]` in `[-1, 1]`.
        """
        self._offset = 0
        x = F.linear(latents.permute(0, 2, 3, 1), self._post_quant, self._post_quant_bias)
        pending = self._pending(x)
        pending = self._convolve(pending, None, self._conv_in)
        pending = self._block(pending, self._mid[0])
        pending = self._attend(pending)
        pending = self._block(pending, self._mid[1])
        for blocks, upsample in self._stages:
            entered = self._settle(pending) if self._config.is_residual and upsample is not None else None
            if entered is not None:
                pending = self._pending(entered)
            for block in blocks:
                pending = self._block(pending, block)
            if upsample is not None:
                pending = self._upsample(pending, upsample, entered, first=first)
        _, taken = self._advance(pending, self._norm_out, history=True)
        taps = self._convolutions.run(taken, self._taps, 0)
        num_frames, height, width, _ = pending.shape
        patch = self._config.patch_size
        frames = taps.new_empty(num_frames, self._config.out_channels // patch**2, patch * height, patch * width)
        sum_taps(taps, self._out_bias, frames, patch)
        return frames

    def _pending(self, x: Tensor) -> Pending:
        steps, height, width, channels = x.shape
        return Pending(x, Layout.FRAMES, (steps, height, width, channels))

    def _block(self, pending: Pending, block: _Block) -> Pending:
        entered, taken = self._advance(pending, block.norm1, history=True, sums=True, pairs=True)
        pending = self._run(taken, block.conv1, pending.shape)
        pending = self._convolve(pending, block.norm2, block.conv2)
        if block.shortcut is not None:
            entered = F.linear(entered, block.shortcut)
        return Pending(pending.source, pending.layout, pending.shape, block.bias, entered)

    def _convolve(self, pending: Pending, norm: _Norm | None, conv: _Conv) -> Pending:
        _, taken = self._advance(pending, norm, history=True, pairs=norm is not None)
        return self._run(taken, conv, pending.shape)

    def _run(self, taken: Tensor, conv: _Conv, shape: tuple[int, int, int, int]) -> Pending:
        """Convolve what `_advance` laid out: history and frames, or planes."""
        steps, height, width, _ = shape
        shape = (steps, height, width, conv.bias.shape[0])
        if taken.dim() == 4:
            return Pending(self._convolutions.run(taken, conv.weight, 1), Layout.FRAMES, shape, conv.bias)
        planes = taken.new_empty(4, steps // 2, height, width, conv.bias.shape[0])
        for plane, weight, target in zip(taken, conv.planes, planes, strict=True):
            self._convolutions.run(plane, weight, 1, out=target)
        return Pending(planes, Layout.PLANES, shape, conv.bias)

    def _attend(self, pending: Pending) -> Pending:
        x, normalized = self._advance(pending, self._attention.norm, sums=True, silu=False)
        steps, height, width, channels = pending.shape
        tokens = normalized.view(steps, height * width, channels)
        attended = attend(F.linear(tokens, self._attention.qkv, self._attention.qkv_bias))
        y = F.linear(attended, self._attention.proj).view(pending.shape)
        return Pending(y, Layout.FRAMES, pending.shape, self._attention.proj_bias, x)

    def _upsample(self, pending: Pending, upsample: _Upsample, entered: Tensor | None, *, first: bool) -> Pending:
        steps, height, width, channels = pending.shape
        if upsample.time and not first:
            _, taken = self._advance(pending, None, history=True, silu=False)
            y = self._convolutions.run(taken, upsample.time_weight, 0) + upsample.time_bias
            x = y.view(steps, height, width, 2, channels).permute(0, 3, 1, 2, 4).reshape(-1, height, width, channels)
        else:
            if upsample.time:
                self._offset += HISTORY * height * width * channels
            x = self._settle(pending)
        phases = self._convolutions.run(x, upsample.weight, 1)
        shape = (x.shape[0], 2 * height, 2 * width, upsample.bias.shape[0])
        residual = None
        if entered is not None:
            doubled = duplicate(entered.permute(3, 0, 1, 2).unsqueeze(0), shape[3], time=upsample.time, first=first)
            residual = doubled[0].permute(1, 2, 3, 0).contiguous()
        return Pending(phases, Layout.PHASES, shape, upsample.bias, residual)

    def _settle(self, pending: Pending) -> Tensor:
        """The frames themselves."""
        if pending.settled:
            return pending.source
        sums = pending.source.new_empty(pending.shape, dtype=self._dtypes.sums)
        self._fuse(pending, sums=sums)
        return sums

    def _advance(
        self,
        pending: Pending,
        norm: _Norm | None,
        *,
        history: bool = False,
        sums: bool = False,
        pairs: bool = False,
        silu: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Normalise, activate and lay out the next convolution's input.

        Returns:
            The frames themselves if `sums` (else something that isn't to be used), and the input: planes when `pairs`
            and there are enough frames.
        """
        steps, height, width, channels = pending.shape
        layout = Layout.PLANES if pairs and steps % 2 == 0 and steps >= _MIN_PAIRS_FRAMES else Layout.FRAMES
        shape = (4, steps // 2) if layout is Layout.PLANES else (steps + (HISTORY if history else 0),)
        dtype = self._dtypes.sums if norm is None else self._dtypes.bounded
        target = pending.source.new_empty(*shape, height, width, channels, dtype=dtype)
        kept = pending.source
        if sums and not pending.settled:
            kept = pending.source.new_empty(pending.shape, dtype=self._dtypes.sums)
        self._fuse(
            pending,
            sums=None if kept is pending.source else kept,
            target=target,
            target_layout=layout,
            norm=norm,
            silu=silu and norm is not None,
            history=history,
        )
        return kept, target

    def _fuse(
        self,
        pending: Pending,
        *,
        sums: Tensor | None,
        target: Tensor | None = None,
        target_layout: Layout = Layout.FRAMES,
        norm: _Norm | None = None,
        silu: bool = False,
        history: bool = False,
    ) -> None:
        steps, height, width, channels = pending.shape
        fuse(
            pending.source,
            pending.layout,
            num_frames=steps,
            height=height,
            width=width,
            channels=channels,
            bias=pending.bias,
            residual=pending.residual,
            sums=sums,
            target=target,
            target_layout=target_layout,
            gamma=None if norm is None else norm.gamma,
            silu=silu,
            state=self._state if history else None,
            state_offset=self._offset,
        )
        if history:
            self._offset += HISTORY * height * width * channels


@torch.no_grad()
def magnitude_bound(net: WanNet) -> float:
    """The largest magnitude that anything which comes from a norm, or a convolution after one, can have.

    A norm leaves a vector of length `sqrt(C)` at each position, scaled by gamma, and SiLU lengthens nothing; so by the
    Cauchy-Schwarz inequality a tap of a convolution gives at most its weights' length times that. F(2, 3) at most
    doubles what goes in, and its planes' weights are no longer than the sum of the taps they combine.
    """
    bound = 0.0
    for block in (module for module in net.modules() if isinstance(module, ResidualBlock)):
        for norm, conv in ((block.norm1, block.conv1), (block.norm2, block.conv2)):
            bound = max(bound, _bound(norm, conv))
    for attention in (module for module in net.modules() if isinstance(module, Attention)):
        tokens = _bound(attention.norm, attention.to_qkv)
        weights = attention.proj.weight.flatten(1).float().abs().sum(1).max().item()
        bound = max(bound, tokens, tokens * weights)
    return max(bound, _bound(net.decoder.norm_out, net.decoder.conv_out))


def _bound(norm: RmsNorm, conv: nn.Conv2d | CausalConv3d) -> float:
    length = norm.gamma.shape[0] ** 0.5 * norm.gamma.abs().max().item()
    taps = conv.weight.float().flatten(2).norm(dim=1).sum(1)
    return max(2 * length, (_bias(conv).abs() + 2 * length * taps).max().item())


def phase_weights(weight: Tensor) -> Tensor:
    """Weights of the 2x2 convolution that doubling by nearest neighbour and a 3x3 convolution are.

    A row of the doubled frame's three taps falls on two rows of the small one: on even rows the last two taps fall
    together, on odd rows the first two; likewise columns.

    Args:
        weight: `[C', C, 3, 3]`.

    Returns:
        `[4 * C', C, 2, 2]`, phases `(row, column)` first.
    """

    def fold(w: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        first, middle, last = w.unbind(dim)
        return torch.stack((first, middle + last), dim), torch.stack((first + middle, last), dim)

    return torch.cat([phase for rows in fold(weight, 2) for phase in fold(rows, 3)])


def tap_weights(weight: Tensor) -> Tensor:
    """Weights `[N, C, kt, 1, 1]` that give each spatial tap of `weight`, `[C', C, kt, 3, 3]`, a channel of its own.

    Channel `k * C'` and on are tap `k`'s; `N` is filled up to a multiple that matrix units like.
    """
    channels_out, channels_in, steps = weight.shape[:3]
    taps = weight.permute(3, 4, 0, 1, 2).reshape(-1, channels_in, steps)
    count = math.ceil(9 * channels_out / _TAPS_ALIGNMENT) * _TAPS_ALIGNMENT
    return F.pad(taps, (0, 0, 0, 0, 0, count - taps.shape[0])).view(count, channels_in, steps, 1, 1)


def attend(qkv: Tensor) -> Tensor:
    """Attention of one head over the positions of each frame, `[T, P, 3 * C]` to `[T, P, C]`."""
    q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)
    return F.scaled_dot_product_attention(q, k, v).squeeze(1)


def _linear(conv: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    weight, bias = conv.weight, conv.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return weight.flatten(1).to(dtype).contiguous(), bias.to(dtype)


def _bias(conv: nn.Module) -> Tensor:
    bias = conv.bias
    assert isinstance(bias, Tensor)
    return bias.float()
