"""Finds and checks safetensors files without reading their tensors. Imports no torch: the server reads headers too.

Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from framehaul.safetensors import PREFIX_BYTES, MalformedHeader, StoredTensor, header_bytes, parse_header
from framehaul_pipeline.errors import InvalidInput

MAX_FILE_BYTES: Final = 64 << 30
MAX_JSON_BYTES: Final = 16 << 20
SUFFIX: Final = ".safetensors"
INDEX_NAME: Final = "diffusion_pytorch_model.safetensors.index.json"
FILE_NAME: Final = "diffusion_pytorch_model.safetensors"
_PICKLES: Final = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
_DTYPES: Final = ("F16", "BF16", "F32")


def find_weights(path: Path) -> tuple[Path, ...]:
    """The weights files of a model: a file itself; of a folder its one file, or the shards that its index names.

    Raises:
        InvalidInput: there are none, it isn't clear which, or they are pickles.
    """
    if not path.is_dir():
        if path.suffix in _PICKLES:
            raise InvalidInput(f"weights {path.name}", path.suffix, _no_pickle())
        return (path,)
    if (path / FILE_NAME).exists():
        return (path / FILE_NAME,)
    if (path / INDEX_NAME).exists():
        return _read_index(path / INDEX_NAME)
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) == 1:
        return (found[0],)
    if found:
        names = ", ".join(file.name for file in found)
        raise InvalidInput(f"weights {path.name}", names, f"one file, or {FILE_NAME}: name the file meant")
    if any(file.suffix in _PICKLES for file in path.iterdir()):
        raise InvalidInput(f"weights {path.name}", "pickles alone", _no_pickle())
    raise InvalidInput(f"weights {path.name}", "none", f"a folder with {FILE_NAME}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InvalidInput: the file can't be read, is too large or holds something else.
    """
    try:
        with _open_file(path) as file:
            raw = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise InvalidInput(path.name, error.strerror, "a readable JSON file") from error
    if len(raw) > MAX_JSON_BYTES:
        raise InvalidInput(path.name, f"over {MAX_JSON_BYTES} bytes", "a smaller JSON file")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(path.name, "no JSON", "a JSON object") from error
    if not isinstance(value, dict):
        raise InvalidInput(path.name, type(value).__name__, "a JSON object")
    return value


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Tensors of a safetensors file by name, checked to be whole, packed and of a floating type.

    Raises:
        InvalidInput: names what is wrong with the file.
    """
    try:
        with _open_file(path) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > MAX_FILE_BYTES:
                raise refused(path, f"{size_bytes} bytes", f"a safetensors file of up to {MAX_FILE_BYTES} bytes")
            num_bytes = header_bytes(file.read(PREFIX_BYTES), size_bytes)
            tensors = parse_header(file.read(num_bytes), size_bytes).tensors
    except OSError as error:
        raise refused(path, error.strerror, "a readable safetensors file") from error
    except MalformedHeader as error:
        raise refused(path, str(error), "a safetensors file that is whole") from error
    _check_packed(path, tensors, PREFIX_BYTES + num_bytes, size_bytes)
    return tensors


def check_sha256(path: Path, sha256: str) -> None:
    """Compare a whole file with its pin.

    Raises:
        InvalidInput: it is another file, or can't be read.
    """
    try:
        with _open_file(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise refused(path, error.strerror, "a readable safetensors file") from error
    if found != sha256:
        raise refused(path, f"sha256 {found}", f"the file whose sha256 is {sha256}")


def refused(path: Path, value: str | None, allowed: str) -> InvalidInput:
    """An error about a weights file."""
    return InvalidInput(f"weights {path.name}", value, allowed)


def _open_file(path: Path) -> BufferedReader:
    """Open a regular file: a FIFO would have no end, or wait for its writer.

    Raises:
        InvalidInput: it is something else.
        OSError: it can't be opened.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115  the caller's
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InvalidInput(path.name, "a pipe, a socket or a device", "a regular file")
    return file


def _read_index(path: Path) -> tuple[Path, ...]:
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InvalidInput(path.name, "no weight_map", "an index of shards")
    names = set()
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(SUFFIX):
            raise InvalidInput(
                f"{path.name} weight_map", repr(name)[:80], f"names of {SUFFIX} files in the same folder"
            )
        names.add(name)
    return tuple(path.parent / name for name in sorted(names))


def _check_packed(path: Path, tensors: Mapping[str, StoredTensor], start: int, size_bytes: int) -> None:
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].num_bytes)):
        if tensor.dtype not in _DTYPES:
            raise refused(path, f"{name} of type {tensor.dtype}", f"one of {', '.join(_DTYPES)}")
        if tensor.offset != end:
            first = tensor.offset - start
            raise refused(path, f"{name} at {[first, first + tensor.num_bytes]}", "tensors packed end to end")
        end += tensor.num_bytes
    if end != size_bytes:
        told = f"{end - start} bytes as its header says: a whole file"
        raise refused(path, f"{size_bytes - start} bytes of tensors", told)


def _no_pickle() -> str:
    return f"a {SUFFIX} file: pickles run code when they are read, so convert it first (safetensors.torch.save_file)"
