"""Latents from a safetensors file, read one latent at a time: memory does not grow with the clip."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final, Self

import numpy as np

from framehaul.formats import LatentDtype
from framehaul.safetensors import PREFIX_BYTES, StoredTensor, header_bytes, parse_header
from framehaul_client.core.latents import LatentArray, LatentFormat
from framehaul_client.core.session_config import parse_fps
from framehaul_client.errors import LatentsFileError

DEFAULT_TENSOR: Final = "latents"
_DTYPES: Final = {"F16": LatentDtype.FLOAT16, "BF16": LatentDtype.BFLOAT16, "F32": LatentDtype.FLOAT32}
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}


class LatentsFile:
    """An open latents file; a context manager, and an iterable of `[C, h, w]` arrays.

    The tensor is `[T, C, h, w]`, or `[1, C, T, h, w]` as diffusers has it. bfloat16 comes as uint16 bit patterns.

    Attributes:
        path: the file.
        num_latents: latents in it.
        latents: their format.
        model: the decoder that its notes name (`framehaul.model`); empty if they don't.
        normalized: from its notes (`framehaul.normalized`); False if they don't say.
    """

    def __init__(self, path: Path | str, tensor: str = DEFAULT_TENSOR) -> None:
        """Open `path` and check it, reading the header alone.

        Raises:
            LatentsFileError: it can't be read, isn't a safetensors file, is cut off, or has no such `tensor` of
                latents. The text names the file and the field.
        """
        self.path = Path(path)
        self._file = -1
        try:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._read_header(tensor)
        except OSError as error:
            self.close()
            raise LatentsFileError(f"{self.path}: {error.strerror}") from error
        except (LatentsFileError, ValueError) as error:
            self.close()
            raise LatentsFileError(f"{self.path}: {error}") from error

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    @property
    def fps(self) -> Fraction | None:
        """Frames a second from its notes (`framehaul.fps`), or None.

        Raises:
            LatentsFileError: that is no rate for a video.
        """
        try:
            return None if self._fps is None else parse_fps(self._fps)
        except ValueError as error:
            raise LatentsFileError(f"{self.path}: framehaul.{error}: say which with --fps") from error

    def __len__(self) -> int:
        """Count the latents."""
        return self.num_latents

    def __iter__(self) -> Iterator[LatentArray]:
        """Read latent after latent, each `[C, h, w]`.

        Raises:
            LatentsFileError: the disk fails, or the file became shorter meanwhile.
        """
        return self.read_from(0)

    def read_from(self, index: int) -> Iterator[LatentArray]:
        """Read latent after latent, each `[C, h, w]`, from `index` on.

        Raises:
            LatentsFileError: as when iterating.
        """
        for position in range(index, self.num_latents):
            yield self._read_latent(position)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _read_header(self, name: str) -> None:
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            raise LatentsFileError("must be a regular file")
        num_bytes = header_bytes(os.pread(self._file, PREFIX_BYTES, 0), status.st_size)
        header = parse_header(os.pread(self._file, num_bytes, PREFIX_BYTES), status.st_size)
        if name not in header.tensors:
            found = ", ".join(repr(other) for other in sorted(header.tensors)[:8]) or "none"
            raise LatentsFileError(f"tensor {name!r} is missing: it holds {found}")
        self._read_tensor(name, header.tensors[name])
        self.model = header.metadata.get("framehaul.model", "")
        self._fps = header.metadata.get("framehaul.fps")
        normalized = header.metadata.get("framehaul.normalized", "false")
        if normalized.lower() not in _TRUTH:
            raise LatentsFileError(f"framehaul.normalized={normalized}: must be true or false")
        self.normalized = _TRUTH[normalized.lower()]

    def _read_tensor(self, name: str, tensor: StoredTensor) -> None:
        if tensor.dtype not in _DTYPES:
            raise LatentsFileError(f"tensor {name!r} has dtype {tensor.dtype}: must be F16, BF16 or F32")
        if 0 in tensor.shape:
            raise LatentsFileError(f"tensor {name!r} has shape {list(tensor.shape)}: every size must be 1 or more")
        match tensor.shape:
            case (num_latents, channels, height, width):
                self._runs, run_channels = 1, channels
            case (1, channels, num_latents, height, width):
                # One latent's channels lie apart from each other.
                self._runs, run_channels = channels, 1
            case _:
                raise LatentsFileError(
                    f"tensor {name!r} has shape {list(tensor.shape)}: must be [T, C, h, w] or [1, C, T, h, w]"
                )
        self.num_latents: int = num_latents
        self.latents = LatentFormat(_DTYPES[tensor.dtype], (channels, height, width))
        self._offset = tensor.offset
        self._run_bytes: int = run_channels * height * width * self.latents.array_type.itemsize

    def _read_latent(self, index: int) -> LatentArray:
        latent = np.empty(self.latents.shape, self.latents.array_type)
        target = latent.reshape(-1).view(np.uint8).data
        for run in range(self._runs):
            part = target[run * self._run_bytes : (run + 1) * self._run_bytes]
            self._read_into(part, self._offset + (run * self.num_latents + index) * self._run_bytes)
        return latent

    def _read_into(self, target: memoryview, offset: int) -> None:
        while target:
            try:
                num_bytes = os.preadv(self._file, [target], offset)
            except OSError as error:
                raise LatentsFileError(f"{self.path}: {error.strerror}") from error
            if num_bytes == 0:
                raise LatentsFileError(f"{self.path}: ends at byte {offset}: it became shorter while it was read")
            target = target[num_bytes:]
            offset += num_bytes
