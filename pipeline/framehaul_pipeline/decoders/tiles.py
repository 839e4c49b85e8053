"""What decoders share that decode a clip in overlapping temporal tiles. Imports torch: for the worker alone.

A tile is decoded as it fills. Its last frames wait to be cross-faded with the next tile's first ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.spec import DecoderSpec, Geometry


class TiledDecoder:
    """Tiles behind the decoder contract; `spec` says how long they are and where they begin.

    State: `[n, C, h, w]` latents of the tile that fills, `[0 or fade_frames, 3, H, W]` frames of the last tile that
    fade out.
    """

    def __init__(self, spec: DecoderSpec, device: torch.device, dtype: torch.dtype, *, fade_frames: int) -> None:
        """Two tiles share `fade_frames` frames."""
        self.spec = spec
        self.dtype = dtype
        self._device = device
        self._fade_frames = fade_frames

    def _decode(self, held: Tensor, tail: Tensor) -> Tensor:
        """Frames of a tile `[n, C, h, w]`, the first of them faded over from `tail`, which is empty for the first."""
        raise NotImplementedError

    def _fade(self, frames: Tensor, tail: Tensor) -> Tensor:
        """Fade the first of a tile's frames over from `tail`, which is empty for the first tile."""
        if not len(tail):
            return frames
        part = torch.arange(len(tail), device=frames.device, dtype=frames.dtype).div(len(tail)).view(-1, 1, 1, 1)
        return torch.cat([tail * (1 - part) + frames[: len(tail)] * part, frames[len(tail) :]])

    def _shown(self, frames: Tensor) -> Tensor:
        """Frames as the contract wants them."""
        return frames

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """No latents and no frames yet; where tiles lie doesn't depend on the clip's length."""
        del num_latents, first_latent
        height, width = geometry.frame_size(self.spec)
        latents = (0, geometry.channels, geometry.height, geometry.width)
        return [torch.zeros(shape, device=self._device, dtype=self.dtype) for shape in (latents, (0, 3, height, width))]

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """Take latents as they come, until the tile that fills is full: a chunk decodes one tile at most."""
        del ended
        behind_first, stride = index - self.spec.tile_latents, self.spec.tile_stride_latents
        missing = -behind_first if behind_first < 0 else stride - behind_first % stride
        return max(0, min(available, wanted, missing))

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to `[F, 3, H, W]`: a tile's frames but those that fade when they fill it, else none."""
        held, tail = state
        held = torch.cat([held, latents])
        if len(held) < self.spec.tile_latents:
            return tail[:0], [held, tail]
        frames = self._decode(held, tail)
        fading = frames[-self._fade_frames :]
        # Slices would keep the whole tile alive for as long as the session waits.
        state = [held[self.spec.tile_stride_latents :].clone(), fading.clone()]
        return self._shown(frames[: -self._fade_frames]), state

    def state_bytes(self, geometry: Geometry) -> int:
        """The most there is between two chunks: all latents of a tile but one, and the frames that fade out."""
        height, width = geometry.frame_size(self.spec)
        latents = (self.spec.tile_latents - 1) * geometry.channels * geometry.height * geometry.width
        itemsize_bytes: int = self.dtype.itemsize
        return (latents + self._fade_frames * 3 * height * width) * itemsize_bytes
