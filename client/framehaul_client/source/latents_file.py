"""Latents from a safetensors file, read one latent at a time: memory does not grow with the clip."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final, Self

import numpy as np

from framehaul.files import open_regular
from framehaul.formats import LatentDtype
from framehaul.safetensors import PREFIX_BYTES, Header, StoredTensor, header_bytes, parse_header
from framehaul_client.core.latents import ClipAxes, LatentArray, LatentFormat, Layout, clip_axes
from framehaul_client.core.session_config import check_layout, parse_fps
from framehaul_client.errors import InvalidLatents, LatentsFileError

DEFAULT_TENSOR: Final = "latents"
_COMFYUI_TENSOR: Final = "latent_tensor"
_FEWEST_CHANNELS: Final = 4  # of any VAE's latents; pictures and masks have fewer
_DTYPES: Final = {"F16": LatentDtype.FLOAT16, "BF16": LatentDtype.BFLOAT16, "F32": LatentDtype.FLOAT32}
_LOG: Final = logging.getLogger(__name__)
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}


class StoredLatents:
    """What a latents file says of itself in its header, wherever it comes from.

    The tensor is `[T, C, h, w]` or, as diffusers has it, `[1, C, T, h, w]`, unless a layout is given. bfloat16 comes as
    uint16 bit patterns.

    Attributes:
        path: the file.
        num_latents: latents in it.
        latents: their format.
        model: the decoder that its notes name (`framehaul.model`); empty if they don't.
        normalized: from its notes (`framehaul.normalized`); False if they don't say.
        num_frames: frames of the clip from its notes (`framehaul.frames`), where the last latent gives more; or None.
    """

    def __init__(self, path: Path | str) -> None:
        """Begin with nothing read."""
        self.path = Path(path)
        self.num_latents: int
        self.latents: LatentFormat
        self.model = ""
        self.normalized = False
        self.num_frames: int | None = None
        self._fps: str | None = None
        self._axes: ClipAxes
        self._offset: int  # of the tensor's first byte

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

    def _describe(self, header: Header, name: str | None, layout: Layout | str | None) -> None:
        """Take the tensor and the notes from the header.

        Raises:
            LatentsFileError, ValueError: it has no such latents, or a note is wrong.
        """
        name = _choose_tensor(header) if name is None else name
        if name not in header.tensors:
            raise LatentsFileError(f"tensor {name!r} is missing: it holds {_names(header)}")
        notes = header.metadata
        self._read_tensor(name, header.tensors[name], check_layout(layout or notes.get("framehaul.layout")))
        self.model = notes.get("framehaul.model", "")
        self._fps = notes.get("framehaul.fps")
        normalized = notes.get("framehaul.normalized", "false")
        if normalized.lower() not in _TRUTH:
            raise LatentsFileError(f"framehaul.normalized={normalized}: must be true or false")
        self.normalized = _TRUTH[normalized.lower()]
        frames = notes.get("framehaul.frames")
        if frames is not None:
            if not re.fullmatch(r"[1-9][0-9]{0,9}", frames, re.ASCII):
                raise LatentsFileError(f"framehaul.frames={frames}: must be a whole number from 1")
            self.num_frames = int(frames)

    def _read_tensor(self, name: str, tensor: StoredTensor, layout: Layout | None) -> None:
        if tensor.dtype not in _DTYPES:
            raise LatentsFileError(f"tensor {name!r} has dtype {tensor.dtype}: must be F16, BF16 or F32")
        try:
            self._axes = axes = clip_axes(tensor.shape, layout)
        except InvalidLatents as error:
            raise LatentsFileError(f"tensor {name!r} has {error}") from error
        if axes.unsure:
            _LOG.warning("%s: %s", self.path, axes.warning)
        self.num_latents = axes.num_latents
        self.latents = LatentFormat(_DTYPES[tensor.dtype], axes.latent_shape)
        self._offset = tensor.offset


class LatentsFile(StoredLatents):
    """An open latents file; a context manager, and an iterable of `[C, h, w]` arrays, in bounded memory."""

    def __init__(self, path: Path | str, tensor: str | None = None, *, layout: Layout | str | None = None) -> None:
        """Open `path` and check it, reading the header alone.

        Args:
            path: of the file.
            tensor: its name; None: `latents`, else `latent_tensor`, else the only one that can be latents.
            layout: order of its axes, `TCHW` or `CTHW`, each also after a batch of one; None: what the file says
                (`framehaul.layout`), else `[T, C, h, w]` or `[1, C, T, h, w]`.

        Raises:
            LatentsFileError: it can't be read, isn't a safetensors file, is cut off, or has no such `tensor` of
                latents. The text names the file and the field.
        """
        super().__init__(path)
        self._file = -1
        try:
            self._file = open_regular(self.path)
            self._read_header(tensor, layout)
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

    def _read_header(self, tensor: str | None, layout: Layout | str | None) -> None:
        file_bytes = os.fstat(self._file).st_size
        num_bytes = header_bytes(os.pread(self._file, PREFIX_BYTES, 0), file_bytes)
        header = parse_header(os.pread(self._file, num_bytes, PREFIX_BYTES), file_bytes)
        self._describe(header, tensor, layout)
        end = max(each.offset + each.num_bytes for each in header.tensors.values())
        if end < file_bytes:
            raise LatentsFileError(f"its tensors end at byte {end}, the file at {file_bytes}: are these several files?")
        # With the channels first, one latent's lie apart from each other.
        self._num_runs = 1 if self._axes.layout is Layout.TCHW else self.latents.shape[0]
        self._run_bytes = self.latents.latent_bytes // self._num_runs

    def _read_latent(self, index: int) -> LatentArray:
        latent = np.empty(self.latents.shape, self.latents.array_type)
        target = latent.reshape(-1).view(np.uint8).data
        for run in range(self._num_runs):
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


def _choose_tensor(header: Header) -> str:
    """`latents`, ComfyUI's name for them, or the only tensor that can be a clip's."""
    for name in (DEFAULT_TENSOR, _COMFYUI_TENSOR):
        if name in header.tensors:
            return name
    suited = [name for name, tensor in header.tensors.items() if _is_suited(tensor)]
    if len(suited) != 1:
        raise LatentsFileError(f"tensor {DEFAULT_TENSOR!r} is missing: it holds {_names(header)} (--tensor names one)")
    return suited[0]


def _is_suited(tensor: StoredTensor) -> bool:
    try:
        channels, *_ = clip_axes(tensor.shape, None).latent_shape
    except InvalidLatents:
        return False
    return tensor.dtype in _DTYPES and channels >= _FEWEST_CHANNELS


def _names(header: Header) -> str:
    return ", ".join(repr(name) for name in sorted(header.tensors)[:8]) or "none"
