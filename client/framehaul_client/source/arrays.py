"""Clips that are one array: of numpy, or of a library whose arrays numpy can read (PyTorch's on the CPU)."""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np

from framehaul_client.core.latents import LatentArray, Layout, clip_axes
from framehaul_client.errors import InvalidLatents

_LOG: Final = logging.getLogger(__name__)
_RANK_OF_CLIP: Final = 4


def as_array(latents: Any) -> Any:
    """Return what numpy makes of an array of another library; all else as it is. Nothing is copied.

    Raises:
        InvalidLatents: numpy can't read it.
    """
    if isinstance(latents, np.ndarray) or not hasattr(latents, "__array__"):
        return latents
    try:
        return np.asarray(latents)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidLatents(
            f"latents of type {type(latents).__name__}: numpy can't read them ({error}): tensor.detach().cpu(), and "
            "tensor.view(torch.uint16) with dtype='bfloat16' for bfloat16"
        ) from error


class ClipReader:
    """Views clips as `[T, C, h, w]`, and warns once where that is a guess."""

    def __init__(self, layout: Layout | None) -> None:
        """Read axes in this order; None: in the usual one for their number."""
        self._layout = layout
        self._warned = False

    def read(self, clip: LatentArray) -> LatentArray:
        """View `clip`, of four axes or, with a batch of one, of five.

        Raises:
            InvalidLatents: it isn't one.
        """
        try:
            axes = clip_axes(clip.shape, self._layout)
        except InvalidLatents as error:
            raise InvalidLatents(f"latents of {error}") from error
        if axes.unsure and not self._warned:
            self._warned = True
            _LOG.warning("%s", axes.warning)
        clip = clip.reshape(clip.shape[-_RANK_OF_CLIP:])
        return clip if axes.layout is Layout.TCHW else clip.swapaxes(0, 1)
