"""Wan's decoder in few passes over memory: cuDNN's convolutions, and one Triton kernel between each two.

For the worker process alone. Computes what `wan_net` does. Tensors are frames with channels last, `[T, H, W, C]`.

* Between two convolutions stands one kernel (`wan_kernels.fuse`): it adds the bias and the residual, normalises,
  activates, puts the two frames of history in front and keeps the new history. Nothing is padded, joined or cloned.
* Convolutions over pairs of frames run as F(2, 3) in time: 4 two-dimensional convolutions instead of 6 (`PLANES`), on
  two streams, so that one begins while the last blocks of the one before it still run.
* Doubling by nearest neighbour and the 3x3 convolution after it are one 2x2 convolution of the small frame, whose
  output holds the four phases of the doubled one (`PHASES`): 4/9 of the work, and no doubled frame in memory.
* The last convolution computes its taps as channels and sums them while it writes pixels.

All are the same sums in another order. What comes from a norm, and what a convolution makes of that, has a bound that
follows from the weights (`magnitude_bound`), and is kept in float16 when the bound allows: its rounding is an eighth of
bfloat16's, which more than pays for F(2, 3)'s differences. What has no bound, the sums along the shortcuts and what
reads them, is kept in bfloat16.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from framehaul_pipeline.decoders.engine.convolution import Convolutions
from framehaul_pipeline.decoders.engine.lanes import NUM_LANES, Lanes
from framehaul_pipeline.decoders.engine.pending import Layout, Pending
from framehaul_pipeline.decoders.engine.pixels import sum_taps
from framehaul_pipeline.decoders.engine.weights import Dtypes, bias_of, linear, tap_weights
from framehaul_pipeline.decoders.wan.kernels import fuse
from framehaul_pipeline.decoders.wan.net import HISTORY, Attention, ResidualBlock, WanNet, duplicate
from framehaul_pipeline.decoders.wan.weights import (
    AttentionBlock,
    Block,
    Conv,
    Norm,
    Upsampling,
)

_MIN_PAIRS_FRAMES: Final = 4
"""Fewer frames than these are too little work for a two-dimensional convolution of half of them."""


class WanEngine:
    """A Wan decoder's weights, laid out for one device."""

    def __init__(self, net: WanNet, dtypes: Dtypes, convolutions: Convolutions) -> None:
        """Lay out the weights of `net`, which is on its device in float32; `net` is not needed any more."""
        decoder = net.decoder
        self._dtypes = dtypes
        self._convolutions = convolutions
        self._config = net.config
        self._post_quant, self._post_quant_bias = linear(net.post_quant_conv, dtypes.sums)
        self._conv_in = Conv(decoder.conv_in, dtypes.sums)
        mid = decoder.mid_block
        self._mid = [Block(block, dtypes) for block in mid.resnets if isinstance(block, ResidualBlock)]
        attention = mid.attentions[0]
        assert isinstance(attention, Attention)
        self._attention = AttentionBlock(attention, dtypes.bounded)
        self._stages = [
            (
                [Block(block, dtypes) for block in stage.resnets if isinstance(block, ResidualBlock)],
                None if stage.upsample is None else Upsampling(stage.upsample, dtypes.sums),
            )
            for stage in decoder.stages
        ]
        self._norm_out = Norm(decoder.norm_out)
        self._taps = tap_weights(decoder.conv_out.weight.float()).to(dtypes.bounded)
        self._taps = self._taps.contiguous(memory_format=torch.channels_last_3d)
        self._out_bias = bias_of(decoder.conv_out)
        self._state = torch.zeros(1, dtype=torch.int64, device=self._out_bias.device)
        self._offset = 0
        self._lanes = Lanes(self._state.device)

    def set_state(self, state: Tensor) -> None:
        """Let the next chunk read and overwrite `state`, the histories end to end."""
        self._state.fill_(state.data_ptr())

    def decode(self, latents: Tensor, *, first: bool) -> Tensor:
        """Decode a chunk of the session whose state was set.

        Args:
            latents: `[T, C, h, w]` in the dtype of the sums; a clip's first latent comes alone.
            first: these latents start the clip.

        Returns:
            Frames `[F, 3, H, W]` in `[-1, 1]`, in the bounded values' dtype.
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
        patch = self._config.pixels
        frames = taps.new_empty(num_frames, self._config.out_channels // patch**2, patch * height, patch * width)
        sum_taps(taps, self._out_bias, frames, patch, clamp=True)
        return frames

    def _pending(self, x: Tensor) -> Pending:
        steps, height, width, channels = x.shape
        return Pending(x, Layout.FRAMES, (steps, height, width, channels))

    def _block(self, pending: Pending, block: Block) -> Pending:
        shape = pending.shape
        entered, taken = self._advance(pending, block.norm1, history=True, sums=True, pairs=True)
        assert entered is not None
        pending = self._run(taken, block.conv1, shape)
        del taken
        pending = self._convolve(pending, block.norm2, block.conv2)
        if block.shortcut is not None:
            entered = F.linear(entered, block.shortcut)
        pending.bias, pending.residual = block.bias, entered
        return pending

    def _convolve(self, pending: Pending, norm: Norm | None, conv: Conv) -> Pending:
        _, taken = self._advance(pending, norm, history=True, pairs=norm is not None)
        return self._run(taken, conv, pending.shape)

    def _run(self, taken: Tensor, conv: Conv, shape: tuple[int, int, int, int]) -> Pending:
        """Convolve what `_advance` laid out: history and frames, or planes."""
        steps, height, width, _ = shape
        shape = (steps, height, width, conv.bias.shape[0])
        if taken.dim() == 4:
            return Pending(self._convolutions.run(taken, conv.weight, 1), Layout.FRAMES, shape, conv.bias)
        planes = taken.new_empty(4, steps // 2, height, width, conv.bias.shape[0])
        with self._lanes as lanes:
            for index, (plane, weight, target) in enumerate(zip(taken, conv.planes, planes, strict=True)):
                lane = index % NUM_LANES
                with lanes.on(lane):
                    self._convolutions.run(plane, weight, 1, out=target, lane=lane)
        return Pending(planes, Layout.PLANES, shape, conv.bias)

    def _attend(self, pending: Pending) -> Pending:
        steps, height, width, channels = pending.shape
        x, normalized = self._advance(pending, self._attention.norm, sums=True, silu=False)
        tokens = normalized.view(steps, height * width, channels)
        attended = attend(F.linear(tokens, self._attention.qkv, self._attention.qkv_bias))
        y = F.linear(attended, self._attention.proj).view(pending.shape)
        return Pending(y, Layout.FRAMES, pending.shape, self._attention.proj_bias, x)

    def _upsample(self, pending: Pending, upsample: Upsampling, entered: Tensor | None, *, first: bool) -> Pending:
        steps, height, width, channels = pending.shape
        if upsample.time and not first:
            _, taken = self._advance(pending, None, history=True, silu=False)
            y = self._convolutions.run(taken, upsample.time_weight, 0).view(steps, height, width, 2, channels)
            x = y.new_empty(steps, 2, height, width, channels)
            torch.add(y.permute(0, 3, 1, 2, 4), upsample.time_bias.view(2, 1, 1, channels), out=x)
            x = x.flatten(0, 1)
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
            return pending.take()[0]
        source, residual = pending.take()
        sums = source.new_empty(pending.shape, dtype=self._dtypes.sums)
        self._fuse(pending, source, residual, sums=sums)
        return sums

    def _advance(
        self,
        pending: Pending,
        norm: Norm | None,
        *,
        history: bool = False,
        sums: bool = False,
        pairs: bool = False,
        silu: bool = True,
    ) -> tuple[Tensor | None, Tensor]:
        """Normalise, activate and lay out the next convolution's input.

        Returns:
            The frames themselves if `sums`, and the input: planes when `pairs` and there are enough frames.
        """
        steps, height, width, channels = pending.shape
        layout = Layout.PLANES if pairs and steps % 2 == 0 and steps >= _MIN_PAIRS_FRAMES else Layout.FRAMES
        shape = (4, steps // 2) if layout is Layout.PLANES else (steps + (HISTORY if history else 0),)
        dtype = self._dtypes.sums if norm is None else self._dtypes.bounded
        settled = pending.settled
        source, residual = pending.take()
        target = source.new_empty(*shape, height, width, channels, dtype=dtype)
        kept = source.new_empty(pending.shape, dtype=self._dtypes.sums) if sums and not settled else None
        self._fuse(
            pending,
            source,
            residual,
            sums=kept,
            target=target,
            target_layout=layout,
            norm=norm,
            silu=silu and norm is not None,
            history=history,
        )
        return source if sums and settled else kept, target

    def _fuse(
        self,
        pending: Pending,
        source: Tensor,
        residual: Tensor | None,
        *,
        sums: Tensor | None,
        target: Tensor | None = None,
        target_layout: Layout = Layout.FRAMES,
        norm: Norm | None = None,
        silu: bool = False,
        history: bool = False,
    ) -> None:
        steps, height, width, channels = pending.shape
        fuse(
            source,
            pending.layout,
            num_frames=steps,
            height=height,
            width=width,
            channels=channels,
            bias=pending.bias,
            residual=residual,
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


def attend(qkv: Tensor) -> Tensor:
    """Attention of one head over the positions of each frame, `[T, P, 3 * C]` to `[T, P, C]`."""
    q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)
    return F.scaled_dot_product_attention(q, k, v).squeeze(1)
