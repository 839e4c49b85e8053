"""Decodes before the worker is ready, so that no client pays for loading libraries and choosing kernels.

For the worker process alone. Runs on the thread and the stream that decode later: PyTorch keeps cuDNN's handles
and plans for each thread apart, and its allocator the memory for each stream.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Final

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import Decoder, Preparing
from framehaul_pipeline.device.convert import convert
from framehaul_pipeline.scheduling.chunks import max_chunk_latents
from framehaul_pipeline.spec import Geometry, PixelFormat

_SMALL_LATENT: Final = 8
"""Cells each way of the latent that every decoder warms up with."""
_MAX_WAITING: Final = 64

_log = logging.getLogger(__name__)


def warm_up(
    decoders: Iterable[Decoder],
    device: torch.device,
    sizes: Iterable[tuple[int, int]],
    *,
    chunk_latents: int,
    slot_bytes: int,
) -> None:
    """Decode a small latent with each decoder; then, of each size, chunks of all lengths that clients can get.

    Args:
        decoders: all that are served.
        device: where they decode.
        sizes: widths and heights of frames in pixels, multiples of each decoder's spatial factor.
        chunk_latents: most latents that are decoded together,
        slot_bytes: as far as their frames fit that many bytes.

    Raises:
        torch.OutOfMemoryError: the device has no room for such a chunk.
    """
    sizes = tuple(sizes)
    for decoder in decoders:
        spec = decoder.spec
        _decode(decoder, device, Geometry(channels=spec.channels, height=_SMALL_LATENT, width=_SMALL_LATENT), [1])
        for width, height in sizes:
            started_s = time.monotonic()
            factor = spec.spatial_factor
            geometry = Geometry(channels=spec.channels, height=height // factor, width=width // factor)
            largest = {
                max_chunk_latents(
                    spec,
                    frame_bytes=pixel_format.frame_bytes(height, width),
                    slot_bytes=slot_bytes,
                    chunk_latents=chunk_latents,
                )
                for pixel_format in PixelFormat
            }
            # A clip's first chunk, then all lengths that a client's pace can make.
            wanted = [1, *range(1, max(largest) + 1)]
            with decoder.preparing() if isinstance(decoder, Preparing) else nullcontext():
                chunks = _decode(decoder, device, geometry, wanted)
            seconds = time.monotonic() - started_s
            _log.info("warm-up model=%s size=%dx%d chunks=%s seconds=%.3f", spec.name, width, height, chunks, seconds)


@torch.inference_mode()
def _decode(decoder: Decoder, device: torch.device, geometry: Geometry, wanted: Iterable[int]) -> str:
    """Decode one chunk after the other, as long as `wanted` or as near as the decoder allows; gives their lengths.

    A decoder that gives no frame for a chunk, because it waits for a lookahead or a whole tile, gets more like it.
    """
    state = decoder.open(geometry, None)
    num_decoded, chunks = 0, []
    for length in wanted:
        while count := _next_chunk(decoder, num_decoded, length):
            shape = (count, geometry.channels, geometry.height, geometry.width)
            frames, state = decoder.step(torch.zeros(shape, device=device, dtype=decoder.dtype), state)
            num_decoded += count
            chunks.append(str(count))
            if len(frames):
                _convert(frames)
                frames[-1:].cpu()
                break
    return ",".join(chunks)


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
