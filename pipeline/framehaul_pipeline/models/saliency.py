"""Where people look in films: what is known of TASED-Net without torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import msgspec

from framehaul_pipeline.models.safetensors_files import read_header, refused

NAME: Final = "TASED-Net"
WINDOW_FRAMES: Final = 32
"""Frames that a map is made from; it is the last one's, or the first one's of a window that runs backwards."""
HEIGHT: Final = 224
WIDTH: Final = 384
"""What the network was trained at."""
MOST_WINDOWS: Final = 4
"""On the device together: more take memory, and hardly less time each."""
MOST_FRAMES: Final = WINDOW_FRAMES + MOST_WINDOWS - 1
"""That so many windows take, each a frame later than the one before."""
GPU_BYTES: Final = 800 << 20
"""That the network takes of a GPU, in float16, with room to work in and graphs of it,"""
CPU_BYTES: Final = 1200 << 20
"""and on a CPU, in float32, while it works."""
_PARTS: Final = ("base", "convtsp")
_COUNTERS: Final = "num_batches_tracked"
_NUMBERS: Final = 21_287_237
"""Of weights and norms together."""


class SaliencyModel(msgspec.Struct, frozen=True, kw_only=True):
    """Where the network's weights lie, and what it sees of a frame."""

    path: str
    height: int = HEIGHT
    width: int = WIDTH
    """Both multiples of 32."""

    @property
    def frame_bytes(self) -> int:
        """Of a frame as it sees it, `[height, width, 3] uint8`."""
        return self.height * self.width * 3


def describe_saliency(path: Path) -> SaliencyModel:
    """Look at a weights file's header; the worker checks each tensor.

    Raises:
        InvalidInput: it isn't TASED-Net's.
    """
    numbers = sum(math.prod(tensor.shape) for name, tensor in read_header(path).items() if bare_name(name))
    if numbers != _NUMBERS:
        raise refused(path, f"{numbers} numbers", f"{NAME}'s {_NUMBERS}, converted as docs/highlights.md says")
    return SaliencyModel(path=str(path))


def bare_name(name: str) -> str:
    """A tensor's name in the network; empty for what isn't the network's.

    The published file was saved from within another module, with training's counters.
    """
    bare = name.removeprefix("module.")
    return bare if bare.startswith(_PARTS) and not bare.endswith(_COUNTERS) else ""


def num_windows(num_frames: int, every: int) -> int:
    """How many windows so many consecutive frames hold, one every so many frames."""
    return (num_frames - WINDOW_FRAMES) // every + 1
