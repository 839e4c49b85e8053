import numpy as np
import pytest

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout


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
