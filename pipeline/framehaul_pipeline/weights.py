"""Reads network weights from a safetensors file that is checked before it is believed. Imports torch.

The header alone is read and compared with the module first, so a wrong file costs no memory and no device time, and
nothing is ever unpickled.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load as load_safetensors
from torch import nn

from framehaul_pipeline.errors import InvalidInput

ASSETS: Final = Path(__file__).parent / "assets"
MAX_FILE_BYTES: Final = 1 << 30
MAX_HEADER_BYTES: Final = 1 << 20
_LENGTH = struct.Struct("<Q")
_DTYPES: Final = {"F16": 2, "BF16": 2, "F32": 4}


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor entries of a safetensors file by name, checked to be whole, packed and of a floating type.

    Source: the format section of the README of huggingface/safetensors: an 8-byte little-endian length, that much
    JSON, then the tensors end to end.

    Raises:
        InvalidInput: names what is wrong with the file.
    """
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(_LENGTH.size)
            if len(prefix) < _LENGTH.size or size_bytes > MAX_FILE_BYTES:
                raise _refused(
                    path, f"{size_bytes} bytes", f"a safetensors file of {_LENGTH.size}..{MAX_FILE_BYTES} bytes"
                )
            (header_bytes,) = _LENGTH.unpack(prefix)
            if header_bytes > min(MAX_HEADER_BYTES, size_bytes - _LENGTH.size):
                raise _refused(path, f"header of {header_bytes} bytes", "a safetensors file that is whole")
            raw = file.read(header_bytes)
    except OSError as error:
        raise _refused(path, error.strerror, "a readable safetensors file") from error
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise _refused(path, "header that is not JSON", "a safetensors file") from error
    if not isinstance(header, dict):
        raise _refused(path, "header that is no object", "a safetensors file")
    header.pop("__metadata__", None)
    tensors_bytes = size_bytes - _LENGTH.size - header_bytes
    _check_entries(path, header, tensors_bytes)
    return header


def load_weights(module: nn.Module, path: Path, prefix: str) -> None:
    """Fill every parameter of `module`, in place, from the tensors named `prefix` + its name.

    Raises:
        InvalidInput: the file is damaged, or a tensor is missing, left over, or of another shape.
    """
    header = {name: entry for name, entry in read_header(path).items() if name.startswith(prefix)}
    wanted = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    if missing := sorted(wanted.keys() - header.keys()):
        raise _refused(path, f"no tensor {missing[0]}", f"weights with {len(wanted)} tensors {prefix}*")
    if unknown := sorted(header.keys() - wanted.keys()):
        raise _refused(path, f"tensor {unknown[0]}", "weights without it for this version")
    for name, tensor in wanted.items():
        if header[name]["shape"] != list(tensor.shape):
            raise _refused(path, f"{name} of shape {header[name]['shape']}", f"{list(tensor.shape)}")
    tensors = load_safetensors(path.read_bytes())
    with torch.no_grad():
        for name, tensor in wanted.items():
            if not torch.isfinite(tensors[name]).all():
                raise _refused(path, f"{name} with NaN or infinity", "finite weights")
            tensor.copy_(tensors[name])


def _check_entries(path: Path, header: dict[str, Any], tensors_bytes: int) -> None:
    end = 0
    try:
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        for name, entry in entries:
            count = 1
            for length in entry["shape"]:
                count *= length
            if entry["dtype"] not in _DTYPES:
                raise _refused(path, f"{name} of type {entry['dtype']}", f"one of {', '.join(_DTYPES)}")
            if entry["data_offsets"] != [end, end + count * _DTYPES[entry["dtype"]]]:
                raise _refused(path, f"{name} at {entry['data_offsets']}", "tensors packed end to end")
            end = entry["data_offsets"][1]
    except (TypeError, KeyError, AttributeError) as error:
        raise _refused(path, "malformed header entry", "a safetensors file") from error
    if end != tensors_bytes:
        raise _refused(path, f"{tensors_bytes} bytes of tensors", f"{end} bytes as its header says: a whole file")


def _refused(path: Path, value: str | None, allowed: str) -> InvalidInput:
    return InvalidInput(f"weights {path.name}", value, allowed)
