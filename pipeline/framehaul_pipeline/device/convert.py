"""Frames from a decoder's floating-point values to the bytes that go on the wire, on the device.

For the worker process alone. The matrix is computed in float32 whatever the decoder's dtype. What stands here is the
reference, in torch's operations; on CUDA `convert_kernels.py` does the same in one pass.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from framehaul.formats import PixelFormat
from framehaul_pipeline.device.bt709_constants import (
    CB_SCALE,
    CHROMA_OFFSET,
    CR_SCALE,
    KB,
    KG,
    KR,
    LUMA_OFFSET,
    LUMA_SCALE,
)

_log = logging.getLogger(__name__)

Convert = Callable[[Tensor, PixelFormat, Tensor], None]


def convert(frames: Tensor, pixel_format: PixelFormat, out: Tensor) -> None:
    """Write `frames` in their wire format; integers are rounded half up.

    Args:
        frames: `[F, 3, H, W]`, floating point, RGB in `[-1, 1]`; values outside are clamped, in every format.
        pixel_format: the layout to write.
        out: `[F, frame_bytes] uint8` on the same device, contiguous.
    """
    by_kernels = fused(frames.device) if frames.is_cuda else None
    (by_kernels or convert_by_torch)(frames, pixel_format, out)


def convert_by_torch(frames: Tensor, pixel_format: PixelFormat, out: Tensor) -> None:
    """`convert` in torch's operations, on any device."""
    if pixel_format is PixelFormat.RGB24:
        _rgb24(frames, out)
    elif pixel_format is PixelFormat.GBRPF16LE:
        _gbrpf16(frames, out)
    else:
        _yuv420p(frames, out, levels_per_code=4 if pixel_format is PixelFormat.YUV420P10LE else 1)


@functools.cache
def fused(device: torch.device) -> Convert | None:
    """The kernels, after a trial: Triton may be missing, or lack the C compiler that it needs at run time."""
    try:
        from framehaul_pipeline.device.convert_kernels import convert_by_triton

        out = torch.empty(1, PixelFormat.RGB24.frame_bytes(2, 2), dtype=torch.uint8, device=device)
        convert_by_triton(torch.zeros(1, 3, 2, 2, device=device), PixelFormat.RGB24, out)
    except Exception:
        _log.warning("frames are converted by torch, which takes several passes: Triton failed", exc_info=True)
        return None
    return convert_by_triton


def _rgb24(frames: Tensor, out: Tensor) -> None:
    num_frames, channels, height, width = frames.shape
    # 127.5 * (x + 1), rounded half up.
    levels = (frames.float() * 127.5 + 128.0).clamp_(0.0, 255.0)
    out.view(num_frames, height, width, channels).copy_(levels.permute(0, 2, 3, 1))


def _gbrpf16(frames: Tensor, out: Tensor) -> None:
    values = frames.float().clamp(-1.0, 1.0) * 0.5 + 0.5
    out.view(torch.float16).view(frames.shape).copy_(values.roll(-1, dims=1))  # R, G, B becomes G, B, R


def _yuv420p(frames: Tensor, out: Tensor, *, levels_per_code: int) -> None:
    num_frames, _, height, width = frames.shape
    pixels = height * width
    codes = out if levels_per_code == 1 else out.view(torch.int16)  # torch can't convert to uint16; 10 bits fit
    red, green, blue = frames.float().clamp(-1.0, 1.0).unbind(1)
    luma = red * KR + green * KG + blue * KB
    codes[:, :pixels].view(num_frames, height, width).copy_(
        luma * (LUMA_SCALE * levels_per_code) + (LUMA_OFFSET * levels_per_code + 0.5)
    )
    # Chroma is linear in r, g, b: the 2x2 mean of the differences is the difference of the means (centre siting).
    chroma = torch.stack(((blue - luma) * (CB_SCALE * levels_per_code), (red - luma) * (CR_SCALE * levels_per_code)), 1)
    planes = F.avg_pool2d(chroma, 2) + (CHROMA_OFFSET * levels_per_code + 0.5)
    codes[:, pixels:].view(num_frames, 2, height // 2, width // 2).copy_(planes)
