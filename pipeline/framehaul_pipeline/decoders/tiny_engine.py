"""`tiny` in few passes over memory, for CUDA: what `TinyDecoderNet` computes, with another layout and fused steps.

For the worker process alone. Frames are `[T, H, W, C]`, channels last. A block's input lies behind the frame before it,
`[1 + T, H, W, C]`: its first convolution, over pairs of frames, is then one of temporal kernel 2, and no pairs are
made. cuDNN adds that one's bias and activates in the same kernel; one of `tiny_kernels` adds the block's output where
its input lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framehaul_pipeline.decoders.tiny_kernels import add_residual, spread

if TYPE_CHECKING:
    from framehaul_pipeline.decoders.tiny import TinyDecoderNet, Upsample

_CUDNN_CHANNELS: Final = 16
"""cuDNN's tensor cores take multiples of 8: it would pad the last convolution's output itself, in a pass of its own."""

ConvolveRelu = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of `[1, C, 1 + T, H, W]`, weights and bias to `[1, C', T, H, W]`, activated."""


def by_cudnn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `ConvolveRelu`; convolution, bias and activation are one kernel."""
    y: Tensor = torch.cudnn_convolution_relu(x, weight, bias, (1, 1, 1), (0, 1, 1), (1, 1, 1), 1)
    return y


class _Block:
    def __init__(self, block: nn.Module) -> None:
        a, b = block.get_submodule("a"), block.get_submodule("b")
        assert isinstance(a, nn.Conv2d)
        assert isinstance(b, nn.Conv2d)
        channels = b.weight.shape[0]
        now, before = a.weight[:, :channels], a.weight[:, channels:]
        self.first = torch.stack((before, now), 2).contiguous(memory_format=torch.channels_last_3d)
        self.second = b.weight.contiguous(memory_format=torch.channels_last)
        assert a.bias is not None
        assert b.bias is not None
        self.first_bias, self.second_bias = a.bias, b.bias


class _Upsample:
    def __init__(self, upsample: Upsample) -> None:
        project, steps = upsample.project, upsample.time_factor
        assert project.bias is not None
        self.weight, self.bias, self.steps = project.weight.flatten(1).contiguous(), project.bias, steps
        self.channels = project.weight.shape[0] // (4 * steps)


class TinyEngine:
    """A `TinyDecoderNet`'s weights, laid out for CUDA."""

    def __init__(self, net: TinyDecoderNet, patch: int, *, convolve_relu: ConvolveRelu = by_cudnn) -> None:
        """Lay out the weights of `net`, whose last layer gives `patch` pixels a position, each way."""
        self._patch = patch
        self._enter, leave = net.enter, net.leave
        self._stages = [[_Block(block) for block in stage.children()] for stage in net.stages]
        self._upsamples = [_Upsample(cast("Upsample", each)) for each in net.resamples]
        self._convolve_relu = convolve_relu
        assert leave.bias is not None
        self._num_out = leave.weight.shape[0]
        padding = (0, 0) * 3 + (0, _CUDNN_CHANNELS - self._num_out)
        self._leave = F.pad(leave.weight, padding).contiguous(memory_format=torch.channels_last)
        self._leave_bias = leave.bias

    def decode(self, latents: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
        """Decode a chunk.

        Args:
            latents: `[T, channels, h, w]`, channels last, clamped.
            state: one `[1, C, H, W]` a block.

        Returns:
            Frames `[F, 3, H, W]`, and the new state.
        """
        states = iter(state)
        new: list[Tensor] = []
        entered = self._enter(latents).permute(0, 2, 3, 1)
        x = entered.new_empty(entered.shape[0] + 1, *entered.shape[1:])
        x[1:] = entered
        for index, stage in enumerate(self._stages):
            for block in stage:
                self._run(block, x, next(states), new)
            if index < len(self._upsamples):
                x = self._upsample(self._upsamples[index], x)
        y = F.conv2d(x[1:].permute(0, 3, 1, 2), self._leave, padding=1).permute(0, 2, 3, 1)
        return [self._pixels(y), *new]

    def _run(self, block: _Block, x: Tensor, last: Tensor, new: list[Tensor]) -> None:
        """Add a block to the frames in `x` behind the first one, which takes the frame before them."""
        x[0] = last[0].permute(1, 2, 0)
        new.append(x[-1:].clone().permute(0, 3, 1, 2))
        y = self._convolve_relu(x.permute(3, 0, 1, 2).unsqueeze(0), block.first, block.first_bias)[0].transpose(0, 1)
        y = F.conv2d(y, block.second, padding=1)
        add_residual(x[1:], y.permute(0, 2, 3, 1).contiguous(), block.second_bias)

    def _upsample(self, upsample: _Upsample, x: Tensor) -> Tensor:
        steps, (frames, height, width, _) = upsample.steps, x[1:].shape
        projected = F.linear(x[1:], upsample.weight)
        out = x.new_empty(frames * steps + 1, 2 * height, 2 * width, upsample.channels)
        spread(projected, upsample.bias, out[1:], steps)
        return out

    def _pixels(self, y: Tensor) -> Tensor:
        (frames, height, width, _), patch = y.shape, self._patch
        out = y.new_empty(frames, 3, height, patch, width, patch)
        taken = y[..., : self._num_out].unflatten(3, (3, patch, patch)).permute(0, 3, 1, 4, 2, 5)
        torch.add(taken, self._leave_bias.view(3, 1, patch, 1, patch), out=out)
        return out.view(frames, 3, patch * height, patch * width)
