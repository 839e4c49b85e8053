from typing import Any

import numpy as np
import pytest

from framehaul.formats import LatentDtype
from framehaul_client.core.latents import LatentFormat, as_block, latent_format
from framehaul_client.errors import InvalidLatents

FORMAT = LatentFormat(LatentDtype.FLOAT16, (4, 2, 3))


@pytest.mark.parametrize(
    ("array_type", "dtype", "expected"),
    [
        (np.float16, None, LatentDtype.FLOAT16),
        (np.float32, None, LatentDtype.FLOAT32),
        (np.uint16, LatentDtype.BFLOAT16, LatentDtype.BFLOAT16),
        (np.float32, LatentDtype.FLOAT32, LatentDtype.FLOAT32),
        (">f4", None, LatentDtype.FLOAT32),
    ],
)
@pytest.mark.parametrize("shape", [(4, 2, 3), (5, 4, 2, 3)])
def test_the_format_comes_from_the_first_block(
    array_type: Any, dtype: LatentDtype | None, expected: LatentDtype, shape: tuple[int, ...]
) -> None:
    """Rank 3 and rank 4 give the same format; bfloat16 must be named."""
    assert latent_format(np.zeros(shape, array_type), dtype) == LatentFormat(expected, (4, 2, 3))


@pytest.mark.parametrize(("dtype", "item_bytes"), [("float16", 2), ("bfloat16", 2), ("float32", 4)])
def test_latent_bytes(dtype: str, item_bytes: int) -> None:
    """Bytes of one latent."""
    assert LatentFormat(LatentDtype(dtype), (4, 2, 3)).latent_bytes == 24 * item_bytes


@pytest.mark.parametrize(
    ("latents", "dtype", "message"),
    [
        ([1.0], None, "type list: must be numpy arrays"),
        (np.zeros((2, 3), np.float16), None, r"shape \[2, 3\]: must be \[C, h, w\]"),
        (np.zeros((1, 1, 1, 2, 3), np.float16), None, r"must be \[C, h, w\] or"),
        (np.zeros((0, 4, 2, 3), np.float16), None, "every size must be 1 or more"),
        (np.ma.masked_equal(np.eye(4, dtype=np.float16)[None], 1), None, "masked values: must all be numbers"),
        (np.zeros((4, 2, 3), np.float64), None, "dtype float64: must be float16, float32, or uint16"),
        (np.zeros((4, 2, 3), np.uint16), None, "dtype uint16: must be"),
        (np.zeros((4, 2, 3), np.float16), LatentDtype.BFLOAT16, "dtype float16 with dtype='bfloat16'"),
    ],
)
def test_other_latents_are_refused(latents: Any, dtype: LatentDtype | None, message: str) -> None:
    """The text names what was found and what is allowed."""
    with pytest.raises(InvalidLatents, match=message):
        latent_format(latents, dtype)


def test_a_contiguous_block_is_not_copied() -> None:
    """Large latents go out from where they lie."""
    latents = np.zeros((5, 4, 2, 3), np.float16)
    assert np.shares_memory(as_block(latents, FORMAT, 0), latents)


def test_a_strided_or_swapped_block_is_made_plain() -> None:
    """What goes on the wire is contiguous and little-endian, whatever the caller had."""
    values = np.arange(5 * 4 * 2 * 3, dtype=np.float16).reshape(5, 4, 2, 3)
    strided = np.ascontiguousarray(values.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    for latents in (strided, values.astype(">f2")):
        block = as_block(latents, FORMAT, 0)
        assert block.flags.c_contiguous
        assert block.tobytes() == values.tobytes()


def test_one_latent_becomes_a_block() -> None:
    """[C, h, w] is [1, C, h, w]."""
    assert as_block(np.zeros((4, 2, 3), np.float16), FORMAT, 0).shape == (1, 4, 2, 3)


def test_bfloat16_keeps_its_name() -> None:
    """uint16 blocks of a bfloat16 session need no further telling."""
    bfloat16 = LatentFormat(LatentDtype.BFLOAT16, (4, 2, 3))
    assert as_block(np.zeros((2, 4, 2, 3), np.uint16), bfloat16, 0).dtype == np.uint16


def test_a_change_of_format_names_the_latent() -> None:
    """The index says which latent was the wrong one."""
    with pytest.raises(InvalidLatents, match=r"latent 9 is float32 \[4, 2, 3\]: the session's first one was float16"):
        as_block(np.zeros((4, 2, 3), np.float32), FORMAT, 9)
