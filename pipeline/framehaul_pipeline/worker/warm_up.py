"""Decodes before the worker is ready, so that no client pays for loading libraries and choosing kernels.

For the worker process alone. Runs on the thread and the stream that decode later: PyTorch keeps cuDNN's handles
and plans for each thread apart, and its allocator the memory for each stream.

On a device with memory of its own it also finds how long the chunks of a size should be. Longer ones take more memory,
and whether they are faster depends on the model, the size and the device. So all lengths that fit are timed, and none
is kept that is longer than the shortest that is as fast as any.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Final

import torch
from torch import Tensor

from framehaul.formats import PixelFormat
from framehaul_pipeline.decoders.base import Decoder, Preparing
from framehaul_pipeline.device.convert import convert
from framehaul_pipeline.scheduling.chunks import max_chunk_latents
from framehaul_pipeline.spec import Geometry

ChunkLengths = Mapping[tuple[str, Geometry], int]
"""The most latents of a chunk, by the name of its model and the size of its latents."""

_SMALL_LATENT: Final = 8
"""Cells each way of the latent that every decoder warms up with."""
_MAX_WAITING: Final = 64
_TIMED_ROUNDS: Final = 3
_AS_FAST: Final = 1.01
"""A length whose latents take this many times the fastest one's is as fast: so far repeated measurements differ."""
_GIB: Final = 1 << 30
_NO_MEMORY: Final = "the device has no memory for them"

_log = logging.getLogger(__name__)


def warm_up(
    decoders: Iterable[Decoder],
    device: torch.device,
    sizes: Iterable[tuple[int, int]],
    *,
    chunk_latents: int,
    slot_bytes: int,
    room_bytes: Callable[[], int | None],
) -> ChunkLengths:
    """Decode a small latent with each decoder; then, of each size, chunks of all lengths that clients can get.

    Lengths and sizes that the device has no room for are left out, and the log says so.

    Args:
        decoders: all that are served.
        device: where they decode.
        sizes: widths and heights of frames in pixels, multiples of each decoder's spatial factor.
        chunk_latents: most latents that are decoded together,
        slot_bytes: as far as their frames fit that many bytes.
        room_bytes: what the device has at that time for a session and its chunks; None: no memory of its own.

    Returns:
        How long chunks of these sizes should be at most.
    """
    sizes = tuple(sizes)
    found: dict[tuple[str, Geometry], int] = {}
    for decoder in decoders:
        spec = decoder.spec
        _decode(decoder, device, Geometry(channels=spec.channels, height=_SMALL_LATENT, width=_SMALL_LATENT), [1])
        warmed = [_Size(decoder, device, size, chunk_latents, slot_bytes) for size in sizes]
        room = room_bytes() if warmed else None
        if room is not None:
            for size in warmed:
                size.leave_out_beyond(room)
                if isinstance(decoder, Preparing):
                    size.choose(decoder)
        # Graphs of large chunks give those of smaller ones memory to work in (`decoders.cuda_graphs`).
        for size in sorted(warmed, key=lambda size: size.longest * size.height * size.width, reverse=True):
            size.prepare()
        found |= {(spec.name, size.geometry): max(1, size.longest) for size in warmed}
    return found


class _Size:
    """A size of a decoder's frames, and the longest chunk of it."""

    def __init__(
        self, decoder: Decoder, device: torch.device, size: tuple[int, int], chunk_latents: int, slot_bytes: int
    ) -> None:
        """Take what fits a slot."""
        self._decoder, self._device = decoder, device
        self.width, self.height = size
        spec = decoder.spec
        factor = spec.spatial_factor
        self.geometry = Geometry(channels=spec.channels, height=self.height // factor, width=self.width // factor)
        self.longest = max(
            max_chunk_latents(
                spec,
                frame_bytes=pixel_format.frame_bytes(self.height, self.width),
                slot_bytes=slot_bytes,
                chunk_latents=chunk_latents,
            )
            for pixel_format in PixelFormat
        )
        """Latents of it; 0: there is no room for one."""
        self._name = f"model={spec.name} size={self.width}x{self.height}"

    def leave_out_beyond(self, room_bytes: int) -> None:
        """Leave out lengths for which a session, as the decoder says, needs more."""
        state_bytes = self._decoder.state_bytes(self.geometry)
        needed_bytes = [
            state_bytes + self._decoder.workspace_bytes(self.geometry, length) for length in range(1, self.longest + 1)
        ]
        fitting = sum(each <= room_bytes for each in needed_bytes)
        if fitting < self.longest:
            needed, room = (f"{num_bytes / _GIB:.2f}" for num_bytes in (needed_bytes[fitting], room_bytes))
            self._shorten(fitting, f"a session would need {needed} GiB of {room}")

    def choose(self, decoder: Preparing) -> None:
        """Time all lengths: the longest is then the shortest that is as fast as any. Keeps nothing of it prepared."""
        with decoder.preparing():
            for length in range(1, self.longest + 1):
                if self._try([1, length]) is None:
                    self._shorten(length - 1, _NO_MEMORY)
                    break
        if self.longest > 1:
            latent_s = dict.fromkeys(range(1, self.longest + 1), float("inf"))
            for _ in range(_TIMED_ROUNDS):
                for length in latent_s:
                    num_latents, seconds = _decode(self._decoder, self._device, self.geometry, [1, length])[-1]
                    latent_s[length] = min(latent_s[length], seconds / num_latents)
            as_fast = _AS_FAST * min(latent_s.values())
            self.longest = min(length for length, seconds in latent_s.items() if seconds <= as_fast)
            rates = ",".join(f"{1 / seconds:.2f}" for seconds in latent_s.values())
            _log.info("warm-up %s longest_chunk=%d latents_per_s=%s", self._name, self.longest, rates)
        decoder.forget()

    def prepare(self) -> None:
        """Decode a clip's first chunk, then all lengths that a client's pace can make."""
        started_s = time.monotonic()
        with self._decoder.preparing() if isinstance(self._decoder, Preparing) else nullcontext():
            while self.longest:
                decoded = self._try([1, *range(self.longest, 0, -1)])
                if decoded is not None:
                    chunks = ",".join(str(num_latents) for num_latents, _ in decoded)
                    seconds = time.monotonic() - started_s
                    _log.info("warm-up %s chunks=%s seconds=%.3f", self._name, chunks, seconds)
                    return
                self._shorten(self.longest - 1, _NO_MEMORY)

    def _try(self, lengths: Iterable[int]) -> list[tuple[int, float]] | None:
        """What `_decode` gives; None when the device has no room for it."""
        try:
            return _decode(self._decoder, self._device, self.geometry, lengths)
        except RuntimeError as error:
            if "out of memory" not in str(error):  # the driver's own calls have no class for it
                raise
        # Only here, where the error's traceback is gone, are the failed work's tensors free.
        torch.cuda.empty_cache()
        return None

    def _shorten(self, longest: int, reason: str) -> None:
        self.longest = longest
        what = f"chunks of over {longest} latents" if longest else "the size"
        _log.warning("warm-up %s leaves out %s: %s", self._name, what, reason)


@torch.inference_mode()
def _decode(
    decoder: Decoder, device: torch.device, geometry: Geometry, lengths: Iterable[int]
) -> list[tuple[int, float]]:
    """Decode a clip's chunks, as long as `lengths` or as near as the decoder allows; gives their latents and seconds.

    A decoder that gives no frame for a chunk, because it waits for a lookahead or a whole tile, gets more like it.
    """
    state = decoder.open(geometry, None)
    num_decoded, chunks = 0, []
    for length in lengths:
        while count := _next_chunk(decoder, num_decoded, length):
            shape = (count, geometry.channels, geometry.height, geometry.width)
            latents = torch.zeros(shape, device=device, dtype=decoder.dtype)
            started_s = time.monotonic()
            frames, state = decoder.step(latents, state)
            if len(frames):
                frames[-1, 0, 0, 0].item()  # once the device is done
            num_decoded += count
            chunks.append((count, time.monotonic() - started_s))
            if len(frames):
                _convert(frames)
                frames[-1:].cpu()
                break
    return chunks


def _convert(frames: Tensor) -> None:
    """Convert frames `[F, 3, H, W]` to each pixel format, for the sake of its kernel."""
    height, width = frames.shape[2:]
    for pixel_format in PixelFormat:
        num_bytes = pixel_format.frame_bytes(height, width)
        convert(frames, pixel_format, torch.empty(len(frames), num_bytes, dtype=torch.uint8, device=frames.device))


def _next_chunk(decoder: Decoder, num_decoded: int, wanted: int) -> int:
    """Let latents come one by one until the decoder takes some; 0 when it only does at a clip's end."""
    for available in range(wanted, _MAX_WAITING + 1):
        count = decoder.next_chunk(num_decoded, available, wanted, ended=False)
        if count:
            return count
    return 0
