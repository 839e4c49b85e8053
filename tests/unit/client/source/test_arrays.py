from typing import Any

import numpy as np
import pytest

from framehaul_client.core.latents import Layout
from framehaul_client.errors import InvalidLatents
from framehaul_client.source.arrays import ClipReader, as_array

CLIP = np.arange(5 * 4 * 2 * 3, dtype=np.float32).reshape(5, 4, 2, 3)
CHANNELS_FIRST = CLIP.swapaxes(0, 1)


class Tensor:
    """What another library's arrays have in common."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        if isinstance(self.values, Exception):
            raise self.values
        return np.asarray(self.values)


@pytest.mark.parametrize(
    ("clip", "layout"),
    [
        (CLIP, None),
        (CLIP, Layout.TCHW),
        (CLIP[None], Layout.TCHW),
        (CHANNELS_FIRST, Layout.CTHW),
        (CHANNELS_FIRST[None], Layout.CTHW),
        (CHANNELS_FIRST[None], None),
    ],
)
def test_every_layout_is_seen_as_one_and_nothing_is_copied(clip: np.ndarray[Any, Any], layout: Layout | None) -> None:
    """[T, C, h, w]."""
    seen = ClipReader(layout).read(clip)
    assert np.array_equal(seen, CLIP)
    assert np.shares_memory(seen, CLIP)


@pytest.mark.parametrize(
    ("shape", "layout", "message"),
    [
        ((4, 2, 3), None, r"latents of shape \[4, 2, 3\]: must be \[T, C, h, w\] or \[1, C, T, h, w\]"),
        ((2, 4, 5, 2, 3), None, r"must be \[T, C, h, w\] or \[1, C, T, h, w\]"),
        ((2, 4, 5, 2, 3), Layout.TCHW, r"must be \[T, C, h, w\] or \[1, T, C, h, w\]"),
        ((2,), Layout.CTHW, r"must be \[C, T, h, w\] or \[1, C, T, h, w\]"),
        ((0, 4, 2, 3), None, "every size must be 1 or more"),
    ],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], layout: Layout | None, message: str) -> None:
    """The text has the axes that are allowed with this layout."""
    with pytest.raises(InvalidLatents, match=message):
        ClipReader(layout).read(np.zeros(shape, np.float16))


def test_a_guess_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """As many latents as channels."""
    square, reader = np.zeros((4, 4, 2, 3)), ClipReader(None)
    reader.read(square)
    reader.read(square)
    assert caplog.text.count("4 latents of 4 channels fit two layouts, and are read as TCHW") == 1
    caplog.clear()
    ClipReader(Layout.CTHW).read(square)
    ClipReader(None).read(square[:1, :1])
    assert not caplog.text


def test_other_libraries_arrays_are_taken_as_they_lie() -> None:
    """All else stays what it is."""
    assert as_array(Tensor(CLIP)) is CLIP
    assert as_array(CLIP) is CLIP
    assert as_array([1]) == [1]
    with pytest.raises(InvalidLatents, match=r"type Tensor: numpy can't read them \(BFloat16\).*dtype='bfloat16'"):
        as_array(Tensor(TypeError("BFloat16")))
