"""Conversion on the device against swscale, on smooth pictures and on noise."""

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from framehaul.formats import PixelFormat
from framehaul_pipeline.device.convert import convert, fused

HEIGHT, WIDTH = 96, 160
Bytes = npt.NDArray[np.uint8]


def pictures() -> torch.Tensor:
    """`[2, 3, H, W]` in [-1, 1]: one smooth, one noise, both exact in 8 bits so that swscale sees the same values."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH), indexing="ij")
    smooth = torch.stack([torch.sin(3 * x + y), torch.cos(2 * y - x), torch.sin(4 * x * y)])
    noise = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1
    levels = (torch.stack([smooth, noise]) * 127.5 + 128).floor().clamp(0, 255)
    return levels / 127.5 - 1


def converted(frames: torch.Tensor, pixel_format: PixelFormat) -> Bytes:
    out = torch.full((frames.shape[0], pixel_format.frame_bytes(*frames.shape[2:])), 77, dtype=torch.uint8)
    convert(frames, pixel_format, out)
    return out.numpy()


def test_rgb24_restores_every_level() -> None:
    """What was n / 127.5 - 1 is n again, at its place in `[H, W, 3]`."""
    frames = pictures()
    expected = (frames * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(converted(frames, PixelFormat.RGB24).reshape(expected.shape), expected)


@pytest.mark.parametrize("pixel_format", [PixelFormat.YUV420P, PixelFormat.YUV420P10LE])
def test_yuv420p_is_within_one_level_of_swscale_area(pixel_format: PixelFormat) -> None:
    """BT.709, limited range, chroma by the 2x2 mean, in 8 and in 10 bits.

    swscale starts from 8 bits: it takes deeper RGB for 256/255 brighter than it is, so that its 10-bit white is 944.
    """
    frames = pictures()
    rgb = converted(frames, PixelFormat.RGB24).reshape(-1, HEIGHT, WIDTH, 3)
    dtype = "<u2" if pixel_format is PixelFormat.YUV420P10LE else "u1"
    ours = converted(frames, pixel_format).view(dtype).reshape(-1, HEIGHT * 3 // 2, WIDTH)
    for picture, mine in zip(rgb, ours, strict=True):
        reference = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format=pixel_format.value,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.AREA,
        )
        difference = np.abs(mine.astype(int) - reference.to_ndarray().astype(int))
        assert difference.max() <= 1
        assert difference.mean() < 0.1


def test_yuv420p10_is_the_standards_formula() -> None:
    """Y = 64 + 876 E_Y and C = 512 + 896 E_C, to the nearest level but for float32's error."""
    frames = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3)) * 2 - 1
    red, green, blue = (frames.double().numpy() * 0.5 + 0.5).transpose(1, 0, 2, 3)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    planes = [64 + 876 * luma]
    planes += [
        512 + 896 * difference.reshape(2, HEIGHT // 2, 2, WIDTH // 2, 2).mean(axis=(2, 4))
        for difference in ((blue - luma) / 1.8556, (red - luma) / 1.5748)
    ]
    expected = np.concatenate([plane.reshape(2, -1) for plane in planes], axis=1)
    ours = converted(frames, PixelFormat.YUV420P10LE).view("<u2")
    assert np.abs(ours - expected).max() < 0.5 + 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_floats_are_the_nearest_to_the_values(dtype: torch.dtype) -> None:
    """(x + 1) / 2, rounded to even once, in planes G, B, R."""
    frames = (torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2)) * 2 - 1).to(dtype)
    expected = ((frames.double() + 1) / 2).numpy().astype(np.float16)[:, [1, 2, 0]]
    assert np.array_equal(converted(frames, PixelFormat.GBRPF16LE).view("<f2").reshape(expected.shape), expected)


@pytest.mark.parametrize(
    ("rgb", "yuv"),
    [
        ((1, 1, 1), (940, 512, 512)),
        ((-1, -1, -1), (64, 512, 512)),
        ((1, -1, -1), (250, 409, 960)),
        ((-1, 1, -1), (691, 167, 105)),
        ((-1, -1, 1), (127, 960, 471)),
    ],
)
def test_primaries_have_the_standards_codes_in_10_bits(rgb: tuple[int, ...], yuv: tuple[int, ...]) -> None:
    """Y = 64 + 876 E, C = 512 + 896 E."""
    frame = torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert converted(frame, PixelFormat.YUV420P10LE).view("<u2")[0, [0, 4, 5]].tolist() == list(yuv)


@pytest.mark.parametrize(
    ("rgb", "yuv"),
    [
        ((1, 1, 1), (235, 128, 128)),
        ((-1, -1, -1), (16, 128, 128)),
        ((1, -1, -1), (63, 102, 240)),
        ((-1, 1, -1), (173, 42, 26)),
        ((-1, -1, 1), (32, 240, 118)),
    ],
)
def test_primaries_have_the_standards_codes(rgb: tuple[int, ...], yuv: tuple[int, ...]) -> None:
    """The 8-bit codes of BT.709 colour bars at full amplitude."""
    frame = torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert converted(frame, PixelFormat.YUV420P)[0, [0, 4, 5]].tolist() == list(yuv)


def test_torch_converts_where_triton_cannot(caplog: pytest.LogCaptureFixture) -> None:
    """A machine without a driver, like this device, or without a compiler: the log says so, once."""
    for _ in range(2):
        assert fused(torch.device("cpu")) is None
    (record,) = caplog.records
    assert "frames are converted by torch" in record.message


@pytest.mark.parametrize("pixel_format", list(PixelFormat))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_outside_are_clamped_in_every_dtype(pixel_format: PixelFormat, dtype: torch.dtype) -> None:
    """A decoder's overshoot is white or black and never wraps around."""
    frame = torch.full((1, 3, 2, 2), 3.0, dtype=dtype)
    white = converted(torch.ones(1, 3, 2, 2), pixel_format)
    black = converted(-torch.ones(1, 3, 2, 2), pixel_format)
    assert np.array_equal(converted(frame, pixel_format), white)
    assert np.array_equal(converted(-frame, pixel_format), black)
