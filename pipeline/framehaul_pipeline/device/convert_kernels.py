"""Conversion to the wire formats in one pass on CUDA: frames are read once, bytes are written once.

For the worker process alone. The arithmetic is `convert.py`'s, operation for operation, without contraction to
fused multiply-adds (`enable_fp_fusion=False`), so that both give the same bytes.

Kernels have no annotations: Triton would evaluate them.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from framehaul.formats import PixelFormat
from framehaul_pipeline.device import bt709_constants as bt709

_KR = tl.constexpr(bt709.KR)
_KG = tl.constexpr(bt709.KG)
_KB = tl.constexpr(bt709.KB)
_BLOCK = 1024


def convert_by_triton(frames: Tensor, pixel_format: PixelFormat, out: Tensor) -> None:
    """`convert` by one kernel, for frames of any strides; shapes are those of `convert`."""
    num_frames, _, height, width = frames.shape
    frame, channel, row, column = frames.stride()
    common = {"BLOCK": _BLOCK, "num_warps": 4, "enable_fp_fusion": False}

    if pixel_format is PixelFormat.RGB24:
        grid: tuple[int, ...] = (triton.cdiv(3 * height * width, _BLOCK), num_frames)
        _rgb24[grid](frames, out, height, width, frame, channel, row, column, **common)
    elif pixel_format is PixelFormat.GBRPF16LE:
        grid = (triton.cdiv(height * width, _BLOCK), num_frames)
        planes = out.view(torch.float16)
        _gbrpf16[grid](frames, planes, height, width, frame, channel, row, column, **common)
    else:
        deep = pixel_format is PixelFormat.YUV420P10LE
        scale = 4.0 if deep else 1.0
        codes = out.view(torch.int16) if deep else out
        grid = (triton.cdiv(width, _BLOCK), height // 2, num_frames)
        _yuv420p[grid](
            frames, codes, height, width, frame, channel, row, column,
            LUMA_SCALE=bt709.LUMA_SCALE * scale,
            LUMA_OFFSET=bt709.LUMA_OFFSET * scale + 0.5,
            CB_SCALE=bt709.CB_SCALE * scale,
            CR_SCALE=bt709.CR_SCALE * scale,
            CHROMA_OFFSET=bt709.CHROMA_OFFSET * scale + 0.5,
            **common,
        )  # fmt: skip


@triton.jit
def _clamped(pointers, mask):
    value = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    return tl.minimum(tl.maximum(value, -1.0), 1.0)


@triton.jit
def _rgb24(
    frames, out, height, width, frame, channel, row, column, BLOCK: tl.constexpr
):  # fmt: skip
    """One program: `BLOCK` consecutive bytes of one frame, so that stores are contiguous; loads meet in the cache."""
    index = tl.program_id(1).to(tl.int64)
    byte = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    num_bytes = 3 * height * width
    mask = byte < num_bytes
    pixel = byte // 3
    source = (byte % 3).to(tl.int64) * channel + (pixel // width).to(tl.int64) * row + (pixel % width) * column
    value = tl.load(frames + index * frame + source, mask=mask, other=0.0).to(tl.float32)
    level = tl.minimum(tl.maximum(value * 127.5 + 128.0, 0.0), 255.0)
    tl.store(out + index * num_bytes + byte, level.to(tl.uint8), mask=mask)


@triton.jit
def _gbrpf16(
    frames, out, height, width, frame, channel, row, column, BLOCK: tl.constexpr
):  # fmt: skip
    """One program: `BLOCK` pixels of one frame, in all three planes."""
    index = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pixels = height * width
    mask = pixel < pixels
    source = frames + index * frame + (pixel // width).to(tl.int64) * row + (pixel % width) * column
    target = out + index * 3 * pixels + pixel
    for plane in tl.static_range(3):  # G, B, R
        value = _clamped(source + ((plane + 1) % 3) * channel, mask)
        tl.store(target + plane * pixels, (value * 0.5 + 0.5).to(tl.float16), mask=mask)


@triton.jit
def _yuv420p(
    frames, out, height, width,
    frame, channel, row, column,
    LUMA_SCALE: tl.constexpr, LUMA_OFFSET: tl.constexpr,
    CB_SCALE: tl.constexpr, CR_SCALE: tl.constexpr, CHROMA_OFFSET: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: `BLOCK` columns of two rows of one frame, their luma and the chroma of their 2x2 blocks."""
    index = tl.program_id(2).to(tl.int64)
    pair = tl.program_id(1)
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = x < width
    pixels = height * width
    base = out + index * (pixels + pixels // 2)
    blue_sum = tl.zeros((BLOCK // 2,), tl.float32)
    red_sum = tl.zeros((BLOCK // 2,), tl.float32)
    for line in tl.static_range(2):
        y = 2 * pair + line
        source = frames + index * frame + y.to(tl.int64) * row + x * column
        red = _clamped(source, mask)
        green = _clamped(source + channel, mask)
        blue = _clamped(source + 2 * channel, mask)
        luma = red * _KR + green * _KG + blue * _KB
        code = luma * LUMA_SCALE + LUMA_OFFSET
        tl.store(base + y * width + x, code.to(out.dtype.element_ty), mask=mask)
        # Left to right, top to bottom: the order in which torch's avg_pool2d adds.
        left, right = tl.split(tl.reshape((blue - luma) * CB_SCALE, (BLOCK // 2, 2)))
        blue_sum = blue_sum + left + right
        left, right = tl.split(tl.reshape((red - luma) * CR_SCALE, (BLOCK // 2, 2)))
        red_sum = red_sum + left + right
    x = tl.program_id(0) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    target = base + pixels + pair * (width // 2) + x
    mask = x < width // 2
    tl.store(target, (blue_sum * 0.25 + CHROMA_OFFSET).to(out.dtype.element_ty), mask=mask)
    tl.store(target + pixels // 4, (red_sum * 0.25 + CHROMA_OFFSET).to(out.dtype.element_ty), mask=mask)
