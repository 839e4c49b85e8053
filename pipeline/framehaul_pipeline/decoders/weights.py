"""Reads network weights from safetensors files that are checked before they are believed. Imports torch.

The headers alone are read and compared with what is wanted first, so a wrong file costs no memory and no device time.
Tensors are views of the mapped files until they are copied to where they are wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from torch import Tensor, nn

from framehaul_pipeline.models.safetensors_files import (
    Renaming,
    check_sha256,
    find_tensors,
    find_weights,
    refused,
)

ASSETS: Final = Path(__file__).parents[1] / "assets"


def read_tensors(
    path: Path | str,
    wanted: Mapping[str, Collection[int]],
    rename: Renaming | None = None,
    *,
    sha256: str | None = None,
) -> dict[str, Tensor]:
    """Tensors of a model by name, on the CPU, in the dtype they are stored in.

    Args:
        path: a safetensors file, or a folder with one or with an index and its shards.
        wanted: shapes by name. Tensors under other first parts of a name (`encoder.`, say) are left alone, but one
            that isn't wanted under the first part of a wanted one is an error.
        rename: gives the wanted names of a file's own; None: they are the same.
        sha256: of the one file, in hexadecimal digits.

    Raises:
        InvalidInput: a file is damaged or another than the pinned one, or a tensor is missing, left over, there twice,
            of another shape or type, or not finite.
    """
    files = find_weights(Path(path))
    if sha256 is not None:
        if len(files) != 1:
            raise refused(Path(path), f"{len(files)} files with one sha256", "one file, or no sha256")
        check_sha256(files[0], sha256)
    places = find_tensors(files, wanted, rename)
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt", device="cpu") as opened:
            for name, (place, stored_name) in places.items():
                if place == file:
                    tensors[name] = opened.get_tensor(stored_name)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise refused(places[name][0], f"{name} with NaN or infinity", "finite weights")
    return tensors


def load_weights(module: nn.Module, path: Path, prefix: str) -> None:
    """Fill every parameter of `module`, in place, from the tensors named `prefix` + its name.

    Raises:
        InvalidInput: see `read_tensors`.
    """
    own = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    tensors = read_tensors(path, {name: tensor.shape for name, tensor in own.items()})
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
