"""Writes latents to a safetensors file as they come. Pure: no torch, no numpy.

The tensors' total size stands before them in the file, so latents are spooled to a temporary file beside the target
first; the target gets its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Final

LATENTS_NAME: Final = "latents"
_HEADER_ALIGN_BYTES: Final = 8


def resolve_link(path: Path) -> Path:
    """The file that a symbolic link leads to, whether or not it exists; `path` itself if it is none."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


class LatentFileWriter:
    """Collects `[C, h, w]` float16 latents for one file; a context manager that throws away what was not finished."""

    def __init__(self, path: Path, latent_shape: tuple[int, int, int]) -> None:
        """Open a spool file in the folder of `path`, or of the file that this leads to, if it is a symbolic link.

        Raises:
            OSError: the folder is missing or can't be written.
        """
        self._path, self._shape = resolve_link(path), latent_shape
        self._latent_bytes = 2 * latent_shape[0] * latent_shape[1] * latent_shape[2]
        self._spool: IO[bytes] = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115
        self.num_latents = 0

    def write(self, latents: bytes | memoryview) -> None:
        """Append whole latents, little-endian float16.

        Raises:
            ValueError: not a whole number of latents.
            OSError: no room on the device.
        """
        size_bytes = len(latents)
        if size_bytes % self._latent_bytes:
            raise ValueError(f"latents of {size_bytes} bytes: must be a multiple of {self._latent_bytes}")
        self._spool.write(latents)
        self.num_latents += size_bytes // self._latent_bytes

    def finish(self, metadata: dict[str, str]) -> None:
        """Write the file under its name, whole, with the notes `metadata`.

        Raises:
            OSError: no room on the device.
        """
        header = self._header(metadata)
        # A name of its own: one made of the target's could be too long.
        with tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=".", suffix=".partial", delete=False) as partial:
            try:
                partial.write(len(header).to_bytes(8, "little") + header)
                self._spool.seek(0)
                shutil.copyfileobj(self._spool, partial, 1 << 20)
                partial.flush()
                os.fsync(partial.fileno())
                # A temporary file is its owner's alone; what ends up here is an ordinary file.
                os.fchmod(partial.fileno(), 0o666 & ~_umask())
                Path(partial.name).replace(self._path)
            except BaseException:
                Path(partial.name).unlink(missing_ok=True)
                raise
        self.close()

    def close(self) -> None:
        """Drop the spool; what was not finished is gone. Closing twice is fine."""
        self._spool.close()

    def __enter__(self) -> LatentFileWriter:
        """Hold the writer open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _header(self, metadata: dict[str, str]) -> bytes:
        end = self.num_latents * self._latent_bytes
        tensor = {"dtype": "F16", "shape": [self.num_latents, *self._shape], "data_offsets": [0, end]}
        text = json.dumps({"__metadata__": metadata, LATENTS_NAME: tensor}, separators=(",", ":")).encode()
        # The format asks for tensors that start on a multiple of eight; readers skip trailing spaces.
        return text + b" " * (-len(text) % _HEADER_ALIGN_BYTES)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
