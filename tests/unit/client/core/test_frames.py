import numpy as np
import pytest

from framehaul_client.core.frames import FrameBatch, FrameLayout, PixelFormat


def test_rgb_layout() -> None:
    """rgb24 is [H, W, 3]."""
    layout = FrameLayout(pixel_format=PixelFormat.RGB24, height=3, width=5)
    assert (layout.shape, layout.frame_bytes) == ((3, 5, 3), 45)


def test_yuv_layout() -> None:
    """yuv420p is [H * 3 / 2, W]."""
    layout = FrameLayout(pixel_format=PixelFormat.YUV420P, height=4, width=6)
    assert (layout.shape, layout.frame_bytes) == ((6, 6), 36)


def test_deep_layouts() -> None:
    """Two bytes a sample: in the shape of yuv420p, and as three planes."""
    deep = FrameLayout(pixel_format=PixelFormat.YUV420P10LE, height=4, width=6)
    assert (deep.shape, deep.frame_bytes, deep.pixel_format.dtype) == ((6, 6), 72, np.dtype("<u2"))
    half = FrameLayout(pixel_format=PixelFormat.GBRPF16LE, height=3, width=5)
    assert (half.shape, half.frame_bytes, half.pixel_format.dtype) == ((3, 3, 5), 90, np.dtype("<f2"))


@pytest.mark.parametrize(
    ("pixel_format", "height", "width", "message"),
    [
        (PixelFormat.RGB24, 0, 4, "height=0: must be 1 or more"),
        (PixelFormat.RGB24, 4, -1, "width=-1: must be 1 or more"),
        (PixelFormat.YUV420P, 3, 4, "height=3: must be even"),
        (PixelFormat.YUV420P, 4, 3, "width=3: must be even"),
        (PixelFormat.YUV420P10LE, 3, 4, "height=3: must be even with yuv420p10le"),
    ],
)
def test_impossible_sizes_are_refused(pixel_format: PixelFormat, height: int, width: int, message: str) -> None:
    """The text names the field, the value and what is allowed."""
    with pytest.raises(ValueError, match=message):
        FrameLayout(pixel_format=pixel_format, height=height, width=width)


def test_a_batch_counts_its_frames() -> None:
    """len() is the number of frames."""
    assert len(FrameBatch(7, np.zeros((3, 2, 2, 3), np.uint8))) == 3
