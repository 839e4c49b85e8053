"""Wan's weights as `wan_engine` runs them: other forms of the same sums, and how large their values can get.

For the worker process alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framehaul_pipeline.decoders.engine.weights import Dtypes, bias_of, linear, phase_weights
from framehaul_pipeline.decoders.wan.net import Attention, CausalConv3d, ResidualBlock, RmsNorm, Upsample, WanNet


class Norm:
    """A norm's scale, `[C] float32`."""

    def __init__(self, norm: RmsNorm) -> None:
        """Lay the weights out."""
        channels = norm.gamma.shape[0]
        self.gamma = (norm.gamma.flatten().float() * channels**0.5).contiguous()


class Conv:
    """A causal 3x3x3 convolution: its weights for frames, and for planes."""

    def __init__(self, conv: CausalConv3d, dtype: torch.dtype) -> None:
        """Lay the weights out."""
        weight = conv.weight.float()
        before, at, after = weight.unbind(2)
        self.weight = weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        self.planes = [
            plane.to(dtype).contiguous(memory_format=torch.channels_last)
            for plane in (before, (before + at + after) / 2, (before - at + after) / 2, after)
        ]
        self.bias = bias_of(conv)


class Block:
    """A residual block."""

    def __init__(self, block: ResidualBlock, dtypes: Dtypes) -> None:
        """Lay the weights out."""
        self.norm1, self.norm2 = Norm(block.norm1), Norm(block.norm2)
        self.conv1, self.conv2 = Conv(block.conv1, dtypes.bounded), Conv(block.conv2, dtypes.bounded)
        self.bias = self.conv2.bias
        self.shortcut: Tensor | None = None
        if isinstance(block.conv_shortcut, CausalConv3d):
            self.shortcut = block.conv_shortcut.weight.flatten(1).to(dtypes.sums).contiguous()
            self.bias = self.bias + bias_of(block.conv_shortcut)


class AttentionBlock:
    """Norm, projections and attention between them."""

    def __init__(self, attention: Attention, dtype: torch.dtype) -> None:
        """Lay the weights out."""
        self.norm = Norm(attention.norm)
        self.qkv, self.qkv_bias = linear(attention.to_qkv, dtype)
        self.proj = attention.proj.weight.flatten(1).to(dtype).contiguous()
        self.proj_bias = bias_of(attention.proj)


class Upsampling:
    """The end of a stage."""

    def __init__(self, upsample: Upsample, dtype: torch.dtype) -> None:
        """Lay the weights out."""
        conv = upsample.resample[1]
        assert isinstance(conv, nn.Conv2d)
        self.weight = phase_weights(conv.weight.float()).to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = bias_of(conv)
        self.time = upsample.time
        if upsample.time:
            self.time_weight = upsample.time_conv.weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
            self.time_bias = upsample.time_conv.bias.to(dtype)  # type: ignore[union-attr]


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
        weights: float = attention.proj.weight.flatten(1).float().abs().sum(1).max().item()
        bound = max(bound, tokens, tokens * weights)
    return max(bound, _bound(net.decoder.norm_out, net.decoder.conv_out))


def _bound(norm: RmsNorm, conv: nn.Conv2d | CausalConv3d) -> float:
    length: float = norm.gamma.shape[0] ** 0.5 * norm.gamma.abs().max().item()
    taps = conv.weight.float().flatten(2).norm(dim=1).sum(1)
    largest: float = (bias_of(conv).abs() + 2 * length * taps).max().item()
    return max(2 * length, largest)
