"""Latents that come through a pipe as a safetensors file, in order: memory does not grow with the clip.

Runs on the event loop and never blocks it, so a pipe that nobody writes to can be left.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Self

import numpy as np

from framehaul.safetensors import PREFIX_BYTES, header_bytes, parse_header
from framehaul_client.core.latents import LatentArray, Layout
from framehaul_client.errors import LatentsFileError
from framehaul_client.source.latents_file import LatentsFile, StoredLatents

STDIN: Final = "-"
_STDIN_PATH: Final = "/dev/stdin"
_READ_BYTES: Final = 1 << 20


async def open_latents(
    path: Path | str, tensor: str | None = None, *, layout: Layout | str | None = None
) -> LatentsFile | LatentsPipe:
    """Open a latents file, a FIFO or, by the name `-`, the standard input; `LatentsFile` has the arguments.

    Cancellation: leaves a pipe whose header hasn't come.

    Raises:
        LatentsFileError: as for `LatentsFile`.
    """
    try:
        mode = os.fstat(0).st_mode if str(path) == STDIN else os.stat(path).st_mode
    except OSError:
        mode = 0  # opening it says what is wrong
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return LatentsFile(_STDIN_PATH if str(path) == STDIN else path, tensor, layout=layout)
    pipe = LatentsPipe(path)
    try:
        await pipe.read_header(tensor, layout)
    except BaseException:
        pipe.close()
        raise
    return pipe


class LatentsPipe(StoredLatents):
    """An open pipe; a context manager, and an asynchronous iterable of `[C, h, w]` arrays that can be read once."""

    def __init__(self, path: Path | str) -> None:
        """Open it, without waiting for its writer; `open_latents` reads the header.

        Raises:
            LatentsFileError: it can't be opened.
        """
        super().__init__(path)
        self._num_read = 0
        try:
            if str(path) == STDIN:
                self._file = os.dup(0)
            else:
                self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise LatentsFileError(f"{path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        """Return the pipe."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pipe."""
        self.close()

    async def __aiter__(self) -> AsyncIterator[LatentArray]:
        """Read latent after latent.

        Raises:
            LatentsFileError: the pipe ends before the last one.
        """
        try:
            while (left := self._offset - self._num_read) > 0:  # tensors before this one
                await self._read(min(left, _READ_BYTES))
            for _ in range(self.num_latents):
                raw = await self._read(self.latents.latent_bytes)
                yield np.frombuffer(raw, self.latents.array_type).reshape(self.latents.shape)
        except LatentsFileError as error:
            raise LatentsFileError(f"{self.path}: {error}") from error

    def close(self) -> None:
        """Close the pipe; closing twice is fine."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    async def read_header(self, tensor: str | None, layout: Layout | str | None) -> None:
        """Wait for the header and check it, before anything else is read.

        Raises:
            LatentsFileError: as for `LatentsFile`; or the latents don't come one after the other.
        """
        try:
            num_bytes = header_bytes(await self._read(PREFIX_BYTES), None)
            self._describe(parse_header(await self._read(num_bytes), None), tensor, layout)
            if self._axes.layout is Layout.CTHW and self.num_latents > 1:
                raise LatentsFileError("a pipe's latents must come one after the other, [T, C, h, w]; a file's needn't")
        except (LatentsFileError, ValueError) as error:
            raise LatentsFileError(f"{self.path}: {error}") from error

    async def _read(self, num_bytes: int) -> bytes:
        """Read so many bytes."""
        found = bytearray(num_bytes)
        target, loop = memoryview(found), asyncio.get_running_loop()
        while target:
            readable = asyncio.Event()
            try:
                loop.add_reader(self._file, readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(self._file)
                count = os.readv(self._file, [target])
            except OSError as error:
                raise LatentsFileError(str(error.strerror)) from error
            if count == 0:
                raise LatentsFileError(f"cut off: it ended at byte {self._num_read}")
            self._num_read += count
            target = target[count:]
        return bytes(found)
