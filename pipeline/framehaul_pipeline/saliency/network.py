"""TASED-Net as it was published: from a window of frames to a map of where people look. Imports torch.

An S3D network without its head, and a decoder that goes back to the frames' size by unpooling: each value returns to
the place that it was the largest at. Encoder and decoder differ in time (16 steps and 4), so those places come from
pools of their own, over the largest of four steps. The module's names are those of the published weights.

Source: class TASED_v2 in model.py of MichiganCOG/TASED-Net at its only version (MIT); Min and Corso, "TASED-Net:
Temporally-Aggregating Spatial Encoder-Decoder Network for Video Saliency Detection", ICCV 2019.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

_NORM_EPSILON: Final = 1e-3
MIXED: Final[tuple[tuple[tuple[int, ...], ...], ...]] = (
    ((192, 64, 96, 128, 16, 32, 32), (256, 128, 128, 192, 32, 96, 64)),
    (
        (480, 192, 96, 208, 16, 48, 64),
        (512, 160, 112, 224, 24, 64, 64),
        (512, 128, 128, 256, 24, 64, 64),
        (512, 112, 144, 288, 32, 64, 64),
        (528, 256, 160, 320, 32, 128, 128),
    ),
    ((832, 256, 160, 320, 32, 128, 128), (832, 384, 192, 384, 48, 128, 128)),
)
"""Of the three groups of inception blocks, for each block: channels in; of the 1x1 branch; of the second branch's 1x1
and 3x3x3; of the third's; of the pooling branch's 1x1."""
OVERLAPPING: Final = ((1, 3, 3), (1, 2, 2), (0, 1, 1))
"""Size, stride and padding of the pool whose windows share voxels: one may be the largest of up to four of them."""


class TasedNet(nn.Module):
    """The published network, layer by layer: what faster forms are held against."""

    def __init__(self) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.base1 = nn.Sequential(
            Separable(3, 64, 7, 2), nn.MaxPool3d(*OVERLAPPING), Pointwise(64, 64), Separable(64, 192, 3, 1)
        )
        self.base2, self.base3, self.base4 = (nn.Sequential(*(Mixed(*widths) for widths in group)) for group in MIXED)
        self.convtsp1 = nn.Sequential(
            nn.Conv3d(1024, 1024, 1, bias=False), _norm(1024), nn.ReLU(), _smooth(1024, 832), _norm(832), nn.ReLU()
        )
        self.convtsp2 = nn.Sequential(_smooth(832, 480), _norm(480), nn.ReLU())
        self.convtsp3 = nn.Sequential(_smooth(480, 192), _norm(192), nn.ReLU())
        self.convtsp4 = nn.Sequential(
            *(_double(192, 64), _norm(64), nn.ReLU()),
            *(nn.Conv3d(64, 64, (2, 1, 1), (2, 1, 1), bias=False), _norm(64), nn.ReLU()),
            *(nn.ConvTranspose3d(64, 4, 1, bias=False), _norm(4), nn.ReLU()),
            *(nn.Conv3d(4, 4, (2, 1, 1), (2, 1, 1), bias=False), _norm(4), nn.ReLU()),
            *(_double(4, 4), nn.Conv3d(4, 1, 1), nn.Sigmoid()),
        )

    def forward(self, window: Tensor) -> Tensor:
        """Map `[B, 3, 32, H, W]`, colours in -1..1, H and W multiples of 32, to `[B, H, W]` in 0..1."""
        pool, unpool = functional.max_pool3d, functional.max_unpool3d
        third = self.base1(window)
        second = self.base2(pool(third, *OVERLAPPING))
        first = self.base3(pool(second, 3, 2, 1))
        third, second = (pool(each, (4, 1, 1)) for each in (third, second))
        first, first_places = pool(pool(first, (2, 1, 1)), (1, 2, 2), return_indices=True)
        (_, third_places), (_, second_places) = (
            pool(each, *OVERLAPPING, return_indices=True) for each in (third, second)
        )
        y = unpool(self.convtsp1(self.base4(first)), first_places, (1, 2, 2))
        y = unpool(self.convtsp2(y), second_places, *OVERLAPPING, output_size=second.shape[2:])
        y = unpool(self.convtsp3(y), third_places, *OVERLAPPING, output_size=third.shape[2:])
        maps: Tensor = self.convtsp4(y)
        return maps[:, 0, 0]


class Published:
    """`TasedNet` as it is, from batches of windows to maps."""

    def __init__(self, net: TasedNet, device: torch.device, dtype: torch.dtype) -> None:
        """Take over `net`."""
        self._net, self._dtype = net.to(device, dtype), dtype

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> Tensor:
        """Map uint8 `[B, 32, H, W, 3]` to `[B, H, W]` in 0..1."""
        maps: Tensor = self._net(windows.to(self._dtype).mul_(2.0).sub_(255.0).div_(255.0).permute(0, 4, 1, 2, 3))
        return maps


class Pointwise(nn.Module):
    """1x1x1 convolution, norm, activation."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """Build with fresh weights."""
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, 1, bias=False)
        self.bn = _norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]` at its own size."""
        return functional.relu(self.bn(self.conv(x)))


class Separable(nn.Module):
    """A convolution in space and one in time, each with norm and activation."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        """Build with fresh weights."""
        super().__init__()
        k, s, p = kernel, stride, kernel // 2
        self.conv_s = nn.Conv3d(channels_in, channels_out, (1, k, k), (1, s, s), (0, p, p), bias=False)
        self.bn_s = _norm(channels_out)
        self.conv_t = nn.Conv3d(channels_out, channels_out, (k, 1, 1), (s, 1, 1), (p, 0, 0), bias=False)
        self.bn_t = _norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]`, smaller by the stride in all three."""
        x = functional.relu(self.bn_s(self.conv_s(x)))
        return functional.relu(self.bn_t(self.conv_t(x)))


class Mixed(nn.Module):
    """An inception block: four branches, one after the other in the result's channels."""

    def __init__(self, *widths: int) -> None:
        """Build with fresh weights; `widths` as in `MIXED`."""
        super().__init__()
        channels, single, near, near_out, far, far_out, pooled = widths
        self.branch0 = nn.Sequential(Pointwise(channels, single))
        self.branch1 = nn.Sequential(Pointwise(channels, near), Separable(near, near_out, 3, 1))
        self.branch2 = nn.Sequential(Pointwise(channels, far), Separable(far, far_out, 3, 1))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), Pointwise(channels, pooled))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]` at its own size."""
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], 1)


def _norm(channels: int) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(channels, eps=_NORM_EPSILON)


def _smooth(channels_in: int, channels_out: int) -> nn.ConvTranspose3d:
    return nn.ConvTranspose3d(channels_in, channels_out, (1, 3, 3), padding=(0, 1, 1), bias=False)


def _double(channels_in: int, channels_out: int) -> nn.ConvTranspose3d:
    return nn.ConvTranspose3d(channels_in, channels_out, (1, 4, 4), (1, 2, 2), (0, 1, 1), bias=False)
