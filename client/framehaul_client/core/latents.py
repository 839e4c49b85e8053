"""What is sent: latents as typed values, checked before they leave; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from framehaul.formats import LatentDtype
from framehaul_client.errors import InvalidLatents

LatentArray = npt.NDArray[Any]


_DTYPE_HELP: Final = "must be float16, float32, or uint16 together with dtype='bfloat16'"


class Layout(StrEnum):
    """Order of a clip's axes: T latents, C channels, height and width. A batch of one may stand before them."""

    TCHW = "TCHW"
    """What a session takes, and what is assumed of four axes."""
    CTHW = "CTHW"
    """What video models and diffusers have, and what is assumed of five axes, `[1, C, T, h, w]`."""


@dataclass(frozen=True, slots=True)
class ClipAxes:
    """How a clip's axes are read.

    Attributes:
        layout: their order.
        num_latents: T.
        latent_shape: channels, height, width.
        unsure: the other order fits as well, and nobody said which it is.
    """

    layout: Layout
    num_latents: int
    latent_shape: tuple[int, int, int]
    unsure: bool

    @property
    def warning(self) -> str:
        """What to say of axes that are a guess."""
        other = next(each for each in Layout if each is not self.layout)
        return (
            f"{self.num_latents} latents of {self.num_latents} channels fit two layouts, and are read as "
            f"{self.layout}: if the frames are noise, it is {other} (--layout, layout=)"
        )


def clip_axes(shape: Sequence[int], layout: Layout | None) -> ClipAxes:
    """Read the axes of a clip, in the given `layout` or in the usual one for their number.

    Raises:
        InvalidLatents: they are no clip's.
    """
    match tuple(shape):
        case (first, second, height, width):
            usual = Layout.TCHW
        case (1, first, second, height, width):
            usual = Layout.CTHW
        case _:
            four, five = layout or Layout.TCHW, layout or Layout.CTHW
            raise InvalidLatents(f"shape {list(shape)}: must be {_axes(four)} or {_axes('1' + five)}")
    if 0 in shape:
        raise InvalidLatents(f"shape {list(shape)}: every size must be 1 or more")
    chosen = layout or usual
    num_latents, channels = (first, second) if chosen is Layout.TCHW else (second, first)
    return ClipAxes(chosen, num_latents, (channels, height, width), unsure=layout is None and first == second > 1)


@dataclass(frozen=True, slots=True)
class LatentFormat:
    """Geometry and number format that every latent of a session shares.

    Attributes:
        dtype: number format on the wire.
        shape: channels, height, width of one latent.
    """

    dtype: LatentDtype
    shape: tuple[int, int, int]

    @property
    def latent_bytes(self) -> int:
        """Bytes of one latent."""
        channels, height, width = self.shape
        return channels * height * width * self.array_type.itemsize

    @property
    def array_type(self) -> np.dtype[Any]:
        """What numpy calls the number format; bfloat16 is held as uint16."""
        return np.dtype(self.dtype.array_type)


def latent_format(block: LatentArray, dtype: LatentDtype | None) -> LatentFormat:
    """Derive the session's format from its first `block`, `[C, h, w]` or `[T, C, h, w]`.

    Args:
        block: the first latents of a session.
        dtype: their number format; needed for bfloat16 alone, which numpy can't name.

    Raises:
        InvalidLatents: the rank, a size or the number format isn't one that can be sent.
    """
    if not isinstance(block, np.ndarray):
        raise InvalidLatents(f"latents of type {type(block).__name__}: must be numpy arrays (tensor.cpu().numpy())")
    if np.ma.is_masked(block):
        raise InvalidLatents("latents with masked values: must all be numbers (latents.filled(0))")
    if block.ndim not in (3, 4):
        raise InvalidLatents(f"latents of shape {list(block.shape)}: must be [C, h, w] or [T, C, h, w]")
    if 0 in block.shape:
        raise InvalidLatents(f"latents of shape {list(block.shape)}: every size must be 1 or more")
    channels, height, width = block.shape[-3:]
    return LatentFormat(_latent_type(block.dtype, dtype), (channels, height, width))


def as_block(latents: LatentArray, expected: LatentFormat, first_latent: int) -> LatentArray:
    """Return `latents` as a contiguous little-endian `[T, C, h, w]` array in the session's format.

    Nothing is copied when they lie that way already.

    Args:
        latents: `[C, h, w]` or `[T, C, h, w]`.
        expected: the session's format.
        first_latent: index of the first of them in the clip, for the error's text.

    Raises:
        InvalidLatents: they are in another format than the session's first ones.
    """
    found = latent_format(latents, expected.dtype if expected.dtype is LatentDtype.BFLOAT16 else None)
    if found != expected:
        raise InvalidLatents(
            f"latent {first_latent} is {found.dtype} {list(found.shape)}: "
            f"the session's first one was {expected.dtype} {list(expected.shape)}"
        )
    return np.ascontiguousarray(latents, dtype=expected.array_type).reshape(-1, *expected.shape)


def _axes(names: str) -> str:
    return f"[{', '.join(names.replace('H', 'h').replace('W', 'w'))}]"


def _latent_type(array_type: np.dtype[Any], dtype: LatentDtype | None) -> LatentDtype:
    little = array_type.newbyteorder("<")
    if dtype is None:
        for named in (LatentDtype.FLOAT16, LatentDtype.FLOAT32):
            if little == np.dtype(named.array_type):
                return named
        raise InvalidLatents(f"latents of dtype {array_type}: {_DTYPE_HELP}")
    if little != np.dtype(dtype.array_type):
        raise InvalidLatents(f"latents of dtype {array_type} with dtype={dtype.value!r}: {_DTYPE_HELP}")
    return dtype
