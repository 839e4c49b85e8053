"""TASED-Net in few passes over memory. Imports torch.

Norms are folded into the convolutions before them. Tensors stay `[B, T, H, W, C]` in memory from end to end, so that
every convolution is a two-dimensional one: in space over the frames `[B * T, C, H, W]`, in time over
`[B, C, T, H * W]`, with bias and activation in the same kernel. An inception block's branches of one voxel are matrix
products that write into their places in the block's result. Unpooling gathers. A batch is one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from framehaul_pipeline.decoders.cuda_graphs import CudaGraphs
from framehaul_pipeline.saliency.network import Mixed, Pointwise, Separable, TasedNet
from framehaul_pipeline.saliency.windows import Windows

_OVERLAPPING: Final = Windows(size=3, stride=2, padding=1)
_APART: Final = Windows(size=2, stride=2, padding=0)
_AROUND: Final = Windows(size=3, stride=1, padding=1)
_ALONE: Final = Windows(size=1, stride=1, padding=0)


class FoldedTased:
    """From batches of windows to maps, as `TasedNet` gives them."""

    def __init__(self, net: TasedNet, device: torch.device, dtype: torch.dtype) -> None:
        """Fold a network in float32 and in evaluation mode, and lay it out on `device`."""
        self._device, self._dtype = device, dtype
        self._graphs = CudaGraphs(device) if device.type == "cuda" else None

        def placed(conv: _Conv) -> _Conv:
            weight, bias = (tensor.detach().to(device, dtype) for tensor in (conv.weight, conv.bias))
            if weight.ndim == 4:
                weight = weight.contiguous(memory_format=torch.channels_last)
            return conv._replace(weight=weight, bias=bias)

        stem, _, point, smooth = net.base1
        self._stem = [placed(conv) for conv in (*_separable(stem), _pointwise(point), *_separable(smooth))]
        self._mixed = [
            [[placed(conv) for conv in _mixed(cast(Mixed, block))] for block in group]
            for group in (net.base2, net.base3, net.base4)
        ]
        first, last = net.convtsp1, net.convtsp4
        self._smooth = [
            [placed(_folded(first[0], first[1])), placed(_folded(first[3], first[4]))],
            [placed(_folded(net.convtsp2[0], net.convtsp2[1]))],
            [placed(_folded(net.convtsp3[0], net.convtsp3[1]))],
        ]
        self._leave = [placed(_folded(last[at], last[at + 1])) for at in (0, 3, 6, 9)]
        self._map = placed(_mapping(last[12], last[13]))

    def __call__(self, windows: Tensor) -> Tensor:
        """Map uint8 `[B, 32, H, W, 3]` to `[B, H, W]` in 0..1, in the dtype given; valid until the next call."""
        if self._graphs is None:
            return self._maps([windows])[0]
        if windows.shape not in self._graphs:
            self._maps([windows])
            self._graphs.record(windows.shape, [windows], self._maps)
        return self._graphs.run(windows.shape, [windows])[0]

    @torch.inference_mode()
    def _maps(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        x = inputs[0].to(self._dtype).mul_(2.0).sub_(255.0).div_(255.0)
        third = _pool(_in_time(_in_space(x, self._stem[0]), self._stem[1]), _OVERLAPPING, _ALONE)
        third = _in_time(_in_space(_in_space(third, self._stem[2]), self._stem[3]), self._stem[4])
        second = self._blocks(_pool(third, _OVERLAPPING, _ALONE), 0)
        first = self._blocks(_pool(second, _OVERLAPPING, _OVERLAPPING), 1)
        first = _pool(first, _ALONE, _APART)
        y = self._blocks(_pool(first, _APART, _ALONE), 2)
        for smooth, pooled, windows in zip(
            self._smooth, (first, second, third), (_APART, _OVERLAPPING, _OVERLAPPING), strict=True
        ):
            for conv in smooth:
                y = _in_space(y, conv)
            y = _unpool(y, pooled, windows)
        y = _in_space(y, self._leave[0])
        y = _in_time(_in_space(_in_time(y, self._leave[1]), self._leave[2]), self._leave[3])
        return [torch.sigmoid(_enlarge(y, self._map))[:, 0, :, :, 0]]

    def _blocks(self, x: Tensor, group: int) -> Tensor:
        for single, near, near_s, near_t, far, far_s, far_t, pooled in self._mixed[group]:
            ends = [single.channels, near_t.channels, far_t.channels, pooled.channels]
            out = x.new_empty(*x.shape[:4], sum(ends))
            into = out.split(ends, 4)
            _by_voxel(x, single, into[0])
            into[1].copy_(_in_time(_in_space(_in_space(x, near), near_s), near_t))
            into[2].copy_(_in_time(_in_space(_in_space(x, far), far_s), far_t))
            _by_voxel(_pool(x, _AROUND, _AROUND), pooled, into[3])
            x = out
        return x


class _Conv(NamedTuple):
    """A convolution, its norm folded in."""

    weight: Tensor
    """`[out, in, rows, columns]`; of transposed ones `[in, out, ...]`."""
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    transposed: bool = False

    @property
    def channels(self) -> int:
        """What comes out."""
        return len(self.bias)


def _folded(conv: nn.Module, norm: nn.Module) -> _Conv:
    """A convolution in space alone or in time alone, with the norm behind it."""
    assert isinstance(conv, nn.Conv3d | nn.ConvTranspose3d)
    assert isinstance(norm, nn.BatchNorm3d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    transposed = isinstance(conv, nn.ConvTranspose3d)
    weight = conv.weight * (scale if transposed else scale[:, None])[..., None, None, None]
    bias = norm.bias - norm.running_mean * scale
    in_time = conv.kernel_size[0] > 1
    axes = slice(0, 1) if in_time else slice(1, 3)
    stride, padding = ((*pair[axes], 1)[:2] for pair in (conv.stride, conv.padding))
    if in_time:
        weight, padding = weight[..., 0], (conv.padding[0], 0)
    else:
        weight = weight[:, :, 0]
    if transposed and stride == (1, 1):
        # The same as a plain one with the kernel turned round.
        weight, transposed = weight.transpose(0, 1).flip(2, 3), False
        padding = (weight.shape[2] - 1 - padding[0], weight.shape[3] - 1 - padding[1])
    return _Conv(weight, bias, (stride[0], stride[1]), (padding[0], padding[1]), transposed)


def _pointwise(module: nn.Module) -> _Conv:
    assert isinstance(module, Pointwise)
    return _folded(module.conv, module.bn)


def _separable(module: nn.Module) -> tuple[_Conv, _Conv]:
    assert isinstance(module, Separable)
    return _folded(module.conv_s, module.bn_s), _folded(module.conv_t, module.bn_t)


def _mixed(block: Mixed) -> tuple[_Conv, ...]:
    single, near, far, pooled = (branch[-1] if at == 3 else branch[0] for at, branch in enumerate(_branches(block)))
    return (
        _pointwise(single),
        _pointwise(near),
        *_separable(block.branch1[1]),
        _pointwise(far),
        *_separable(block.branch2[1]),
        _pointwise(pooled),
    )


def _branches(block: Mixed) -> tuple[nn.Sequential, ...]:
    return block.branch0, block.branch1, block.branch2, block.branch3


def _mapping(double: nn.Module, leave: nn.Module) -> _Conv:
    """The last two, with nothing between them: one transposed convolution to one channel."""
    assert isinstance(double, nn.ConvTranspose3d)
    assert isinstance(leave, nn.Conv3d)
    assert leave.bias is not None
    weight = torch.einsum("imyx,om->ioyx", double.weight[:, :, 0], leave.weight[:, :, 0, 0, 0])
    return _Conv(weight, leave.bias, (2, 2), (1, 1), transposed=True)


def _in_space(x: Tensor, conv: _Conv) -> Tensor:
    """Convolve each frame of `[B, T, H, W, C]`, add the bias, and keep what is positive."""
    if conv.transposed:
        return functional.relu_(_enlarge(x, conv))
    y = _conv_relu(x.flatten(0, 1).permute(0, 3, 1, 2), conv)
    return _split(y.permute(0, 2, 3, 1), 0, x.shape[:2])


def _in_time(x: Tensor, conv: _Conv) -> Tensor:
    """The same for each voxel's course of time."""
    _, _, height, width, _ = x.shape
    y = _conv_relu(x.flatten(2, 3).permute(0, 3, 1, 2), conv)
    return _split(y.permute(0, 2, 3, 1), 2, (height, width))


def _enlarge(x: Tensor, conv: _Conv) -> Tensor:
    frames = x.flatten(0, 1).permute(0, 3, 1, 2)
    y = functional.conv_transpose2d(frames, conv.weight, conv.bias, conv.stride, conv.padding)
    return _split(y.permute(0, 2, 3, 1), 0, x.shape[:2])


def _conv_relu(x: Tensor, conv: _Conv) -> Tensor:
    if x.is_cuda:
        return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, conv.stride, conv.padding, (1, 1), 1)
    return functional.relu_(functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding))


def _by_voxel(x: Tensor, conv: _Conv, out: Tensor) -> None:
    """A 1x1 convolution, written where its channels belong."""
    rows = out.as_strided((out[..., 0].numel(), out.shape[4]), (out.stride(3), 1))
    torch._addmm_activation(conv.bias, x.flatten(0, 3), conv.weight[:, :, 0, 0].T, out=rows)


def _pool(x: Tensor, space: Windows, time: Windows) -> Tensor:
    """The largest voxel of each window."""
    if x.is_cuda:
        # Triton is there where CUDA is.
        from framehaul_pipeline.saliency.pooling import largest

        return largest(x.contiguous(), space, time)
    return pool_by_torch(x, space, time)


def _unpool(y: Tensor, pooled: Tensor, windows: Windows) -> Tensor:
    """Put values back where the windows over `pooled`, in as many steps as `y` has, were the largest."""
    if not y.is_cuda:
        return unpool_by_torch(y, pooled, windows)
    from framehaul_pipeline.saliency.pooling import gather, places

    batch, steps, height, width, _ = pooled.shape
    place = places(pooled.flatten(0, 1), steps // y.shape[1], windows)
    return _split(gather(y.flatten(0, 1), place, height, width, windows), 0, (batch, y.shape[1]))


def pool_by_torch(x: Tensor, space: Windows, time: Windows) -> Tensor:
    """`_pool` in PyTorch's operations, on any device."""
    sizes, strides, paddings = (tuple(each) for each in zip(time, space, space, strict=True))
    y = functional.max_pool3d(x.permute(0, 4, 1, 2, 3), sizes, strides, paddings)
    return y.permute(0, 2, 3, 4, 1).contiguous()


def unpool_by_torch(y: Tensor, pooled: Tensor, windows: Windows) -> Tensor:
    """`_unpool` in PyTorch's operations, of which several threads leave to chance which of two values a voxel gets."""
    batch, steps, height, width, _ = pooled.shape
    largest = pooled.unflatten(1, (-1, steps // y.shape[1])).amax(2).flatten(0, 1).permute(0, 3, 1, 2)
    _, place = functional.max_pool2d(largest, *windows, return_indices=True)
    values = y.flatten(0, 1).permute(0, 3, 1, 2)
    out = functional.max_unpool2d(values, place, *windows.sides(), (height, width)).permute(0, 2, 3, 1).contiguous()
    return _split(out, 0, (batch, y.shape[1]))


def _split(x: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    return x.view(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])
