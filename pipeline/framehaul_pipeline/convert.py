"""Frames from a decoder's floating-point values to the bytes that go on the wire, on the device.

For the worker process alone. The matrix is computed in float32 whatever the decoder's dtype.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from framehaul_pipeline.spec import PixelFormat

# ITU-R BT.709-6, item 3.2 (luma) and 3.3 (colour difference); quantisation of item 4.6 to 8 bits, limited range.
_KR: Final = 0.2126
_KB: Final = 0.0722
_KG: Final = 1.0 - _KR - _KB


def convert(frames: Tensor, pixel_format: PixelFormat, out: Tensor) -> None:
    """Write `frames` in their wire format.

    Args:
        frames: `[F, 3, H, W]`, floating point, RGB in `[-1, 1]`; values outside are clamped.
        pixel_format: the layout to write.
        out: `[F, frame_bytes] uint8` on the same device, contiguous.
    """
    if pixel_format is PixelFormat.RGB24:
        _rgb24(frames, out)
    else:
        _yuv420p(frames, out)


def _rgb24(frames: Tensor, out: Tensor) -> None:
    num_frames, channels, height, width = frames.shape
    # 127.5 * (x + 1), rounded half up.
    levels = (frames.float() * 127.5 + 128.0).clamp_(0.0, 255.0)
    out.view(num_frames, height, width, channels).copy_(levels.permute(0, 2, 3, 1))


def _yuv420p(frames: Tensor, out: Tensor) -> None:
    num_frames, _, height, width = frames.shape
    pixels = height * width
    red, green, blue = frames.float().clamp(-1.0, 1.0).unbind(1)
    # x in [-1, 1] is 2E - 1, so that Y = 16 + 219 E_Y becomes 125.5 + 109.5 * (that of x); 0.5 rounds.
    luma = red * _KR + green * _KG + blue * _KB
    out[:, :pixels].view(num_frames, height, width).copy_(luma * 109.5 + 126.0)
    # Chroma is linear in r, g, b: the 2x2 mean of the differences is the difference of the means (centre siting).
    chroma = torch.stack(((blue - luma) * (112.0 / (2 * (1 - _KB))), (red - luma) * (112.0 / (2 * (1 - _KR)))), 1)
    planes = F.avg_pool2d(chroma, 2) + 128.5
    out[:, pixels:].view(num_frames, 2, height // 2, width // 2).copy_(planes)
