"""Finds and checks safetensors files without reading their tensors. Imports no torch: the server reads headers too.

Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from framehaul.files import NotAFile, open_regular
from framehaul.safetensors import PREFIX_BYTES, MalformedHeader, StoredTensor, header_bytes, parse_header
from framehaul_pipeline.errors import InvalidInput

MAX_FILE_BYTES: Final = 64 << 30
MAX_JSON_BYTES: Final = 16 << 20
SUFFIX: Final = ".safetensors"
INDEX_NAME: Final = "diffusion_pytorch_model.safetensors.index.json"
_VARIANT_INDEX: Final = "*.safetensors.index*.json"
"""What diffusers and transformers call an index, that of a `variant` too."""
FILE_NAME: Final = "diffusion_pytorch_model.safetensors"
_PICKLES: Final = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
_DTYPES: Final = ("F16", "BF16", "F32", "F64")
_DECODER: Final = re.compile(r"((?:[^.]+\.)*?)decoder\.(?:conv_in|conv1)\.")
"""A decoder's first convolution, as diffusers and as Wan's authors call it, with whatever stands before."""
_MAX_PARTS: Final = 8
_MAX_NUMBERS_BYTES: Final = 1 << 16

Renaming = Callable[[Collection[str]], Mapping[str, str]]
"""From the names of a model's tensors, without what stands before all of them, to the names that are wanted."""


def find_weights(path: Path) -> tuple[Path, ...]:
    """The weights files of a model: a file itself; of a folder its one file, or the shards that its index names.

    Raises:
        InvalidInput: there are none, it isn't clear which, or they are pickles.
    """
    if not path.is_dir():
        if path.suffix in _PICKLES:
            raise InvalidInput(f"weights {path.name}", path.suffix, _no_pickle())
        return _read_index(path) if path.match(_VARIANT_INDEX) else (path,)
    if (path / FILE_NAME).exists():
        return (path / FILE_NAME,)
    if (path / INDEX_NAME).exists():
        return _read_index(path / INDEX_NAME)
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) == 1:
        return (found[0],)
    indices = sorted(path.glob(_VARIANT_INDEX))
    if len(indices) == 1:
        return _read_index(indices[0])
    if found:
        names = ", ".join(file.name for file in indices or found)
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
    """Tensors of a safetensors file by name, checked to be whole and packed.

    Raises:
        InvalidInput: names what is wrong with the file.
    """
    try:
        with _opened(path) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > MAX_FILE_BYTES:
                raise refused(path, f"{size_bytes} bytes", f"a safetensors file of up to {MAX_FILE_BYTES} bytes")
            num_bytes = header_bytes(file.read(PREFIX_BYTES), size_bytes)
            tensors = parse_header(file.read(num_bytes), size_bytes).tensors
    except MalformedHeader as error:
        raise refused(path, str(error), "a safetensors file that is whole") from error
    _check_packed(path, tensors, PREFIX_BYTES + num_bytes, size_bytes)
    return tensors


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """A decoder's tensors, and those beside it, by their stored names: without what stands before all of them.

    Files that hold a model within another, or other models beside it, have `model.`, `vae.`, `first_stage_model.` or
    the like before the names. What doesn't have it is left out. Names with nothing before `decoder.` stay as they are,
    and so do all where no decoder is known by its first convolution.

    Raises:
        InvalidInput: there are several decoders.
    """
    names = tuple(names)
    prefixes = {match[1] for name in names if (match := _DECODER.match(name))}
    if not prefixes or "" in prefixes:
        return {name: name for name in names}
    if len(prefixes) > 1:
        found = ", ".join(f"{prefix}decoder" for prefix in sorted(prefixes))
        raise InvalidInput("weights", f"decoders {found}", "of one decoder")
    (prefix,) = prefixes
    return {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def read_numbers(files: Iterable[Path], names: Container[str]) -> dict[str, list[float]]:
    """The values of small tensors, by their bare names; those that aren't there are left out.

    Raises:
        InvalidInput: a tensor is large or of another type than weights have, or its file can't be read.
    """
    found: dict[str, list[float]] = {}
    for path in files:
        header = read_header(path)
        for stored_name, name in bare_names(header).items():
            if name in names:
                found[name] = _read_numbers(path, name, header[stored_name])
    return found


def _read_numbers(path: Path, name: str, tensor: StoredTensor) -> list[float]:
    check_dtype(path, name, tensor)
    if tensor.num_bytes > _MAX_NUMBERS_BYTES:
        raise refused(path, f"{name} of {tensor.num_bytes} bytes", f"at most {_MAX_NUMBERS_BYTES} bytes of numbers")
    with _opened(path) as file:
        file.seek(tensor.offset)
        raw = file.read(tensor.num_bytes)
    if tensor.dtype == "BF16":
        # The upper half of a float32.
        raw = b"".join(b"\0\0" + raw[start : start + 2] for start in range(0, len(raw), 2))
    code = {"F16": "e", "F64": "d"}.get(tensor.dtype, "f")
    return [value for (value,) in struct.iter_unpack(f"<{code}", raw)]


def find_tensors(
    files: tuple[Path, ...], wanted: Mapping[str, Collection[int]], rename: Renaming | None
) -> dict[str, tuple[Path, str]]:
    """Of each wanted tensor its file and its name there, once all headers agree with what is wanted.

    Args:
        files: of one model.
        wanted: shapes by name. Tensors under other first parts of a name are left alone, but one that isn't wanted
            under the first part of a wanted one is an error.
        rename: gives the wanted names of a file's own; None: they are the same. What it leaves out isn't looked at.

    Raises:
        InvalidInput: a file is damaged, or a tensor is missing, left over, there twice, or of another shape or type.
    """
    parts = {name.partition(".")[0] for name in wanted}
    headers = {file: read_header(file) for file in files}
    # Names are found for all files together: what a tensor is called may depend on which others there are.
    bare = bare_names(name for header in headers.values() for name in header)
    names = rename(bare.values()) if rename is not None else {name: name for name in bare.values()}
    places: dict[str, tuple[Path, str]] = {}
    for file, header in headers.items():
        for stored_name, tensor in header.items():
            name = names.get(bare.get(stored_name, ""), "")
            if name.partition(".")[0] not in parts:
                continue
            if name not in wanted:
                raise refused(file, f"tensor {stored_name}", "weights without it for this model")
            if name in places:
                raise refused(file, f"tensor {stored_name} twice", "each tensor once")
            if tensor.shape != tuple(wanted[name]):
                raise refused(file, f"{stored_name} of shape {list(tensor.shape)}", f"{list(wanted[name])}")
            check_dtype(file, stored_name, tensor)
            places[name] = (file, stored_name)
    if missing := sorted(wanted.keys() - places.keys()):
        under = ", ".join(f"{part}.*" for part in sorted(parts))
        seen = f"no tensor {missing[0]} among {first_parts(name for header in headers.values() for name in header)}"
        raise refused(files[0], seen, f"weights with {len(wanted)} tensors {under}")
    return places


def first_parts(names: Iterable[str]) -> str:
    """What a file's tensors are, in few words: the first parts of their names."""
    parts = sorted({f"{part}.*" if dot else part for part, dot, _ in (name.partition(".") for name in names)})
    return ", ".join(parts[:_MAX_PARTS]) + (", ..." if len(parts) > _MAX_PARTS else "") if parts else "none"


def check_dtype(path: Path, name: str, tensor: StoredTensor) -> None:
    """Refuse a tensor of a decoder whose numbers can't be taken as they are: fp8 comes with scales, say.

    Raises:
        InvalidInput: names the tensor, its type and those that are known.
    """
    if tensor.dtype not in _DTYPES:
        raise refused(path, f"{name} of type {tensor.dtype}", f"one of {', '.join(_DTYPES)}")


def check_sha256(path: Path, sha256: str) -> None:
    """Compare a whole file with its pin.

    Raises:
        InvalidInput: it is another file, or can't be read.
    """
    with _opened(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise refused(path, f"sha256 {found}", f"the file whose sha256 is {sha256}")


def refused(path: Path, value: str | None, allowed: str) -> InvalidInput:
    """An error about a weights file."""
    return InvalidInput(f"weights {path.name}", value, allowed)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """A weights file while it is read.

    Raises:
        InvalidInput: it can't be opened or read.
    """
    try:
        with _open_file(path) as file:
            yield file
    except OSError as error:
        raise refused(path, error.strerror, "a readable safetensors file") from error


def _open_file(path: Path) -> BufferedReader:
    """Open a regular file.

    Raises:
        InvalidInput: it is something else.
        OSError: it can't be opened.
    """
    try:
        return open(open_regular(path), "rb")
    except NotAFile as error:
        raise InvalidInput(path.name, error.kind, "a regular file") from None


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
        if tensor.offset != end:
            first = tensor.offset - start
            raise refused(path, f"{name} at {[first, first + tensor.num_bytes]}", "tensors packed end to end")
        end += tensor.num_bytes
    if end != size_bytes:
        told = f"{end - start} bytes as its header says: a whole file"
        raise refused(path, f"{size_bytes - start} bytes of tensors", told)


def _no_pickle() -> str:
    return f"a {SUFFIX} file: pickles run code when they are read, so convert it first (safetensors.torch.save_file)"
