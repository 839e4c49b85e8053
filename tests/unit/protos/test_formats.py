from fractions import Fraction

import numpy as np
import pytest

from framehaul.formats import LatentDtype, PixelFormat, checked_fps, parse_size


@pytest.mark.parametrize(
    ("pixel_format", "shape", "array_type", "num_bytes"),
    [
        (PixelFormat.RGB24, (480, 832, 3), np.uint8, 1_198_080),
        (PixelFormat.YUV420P, (720, 832), np.uint8, 599_040),
        (PixelFormat.YUV420P10LE, (720, 832), np.dtype("<u2"), 1_198_080),
        (PixelFormat.GBRPF16LE, (3, 480, 832), np.dtype("<f2"), 2_396_160),
    ],
)
def test_the_array_of_a_frame(
    pixel_format: PixelFormat, shape: tuple[int, ...], array_type: object, num_bytes: int
) -> None:
    """Three bytes a pixel, one and a half, three again in 10 bits, or six."""
    assert pixel_format.shape(480, 832) == shape
    assert np.dtype(pixel_format.dtype) == array_type
    assert pixel_format.frame_bytes(480, 832) == num_bytes == np.empty(shape, pixel_format.dtype).nbytes


def test_pixels_of_a_frame_that_a_slot_holds() -> None:
    """Slots have three bytes for each of the largest frame's: narrower formats win nothing, wider ones hold fewer."""
    assert [each.max_pixels(1001) for each in PixelFormat] == [1001, 1001, 1001, 500]


def test_chroma_of_two_by_two_pixels() -> None:
    """Those formats need even frames."""
    assert [each for each in PixelFormat if each.subsampled] == [PixelFormat.YUV420P, PixelFormat.YUV420P10LE]


@pytest.mark.parametrize(("name", "num_bytes"), [("float16", 2), ("bfloat16", 2), ("float32", 4)])
def test_bytes_of_an_element(name: str, num_bytes: int) -> None:
    """As many as the array type that holds it has."""
    dtype = LatentDtype(name)
    assert dtype.itemsize_bytes == np.dtype(dtype.array_type).itemsize == num_bytes


def test_a_size_is_read() -> None:
    """Width first."""
    assert parse_size("832x480") == (832, 480)


@pytest.mark.parametrize(
    "text", ["", "832", "x480", "832x", "0x480", "100000x8", "832x480x3", "-8x8", "8.0x8", "8 x8", "\u0663x8"]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="must be WIDTHxHEIGHT in pixels, like 832x480"):
        parse_size(text)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [("24", "24"), ("1000", "1000"), ("24000/1001", "24000/1001"), ("500000/20833", "24"), ("1/1001", "1/1001")],
)
def test_rates_are_at_most_as_fine_as_broadcast_has_them(fps: str, expected: str) -> None:
    assert checked_fps(Fraction(fps)) == Fraction(expected)


@pytest.mark.parametrize("fps", ["0", "-1", "1001", "90000", "1/3600"])
def test_other_rates_are_refused(fps: str) -> None:
    with pytest.raises(ValueError, match=f"fps={fps}: must be a number over 0 and up to 1000"):
        checked_fps(Fraction(fps))
