"""HunyuanVideo 1.0's decoder, through the diffusers library. For the worker process alone.

The library decodes a clip in temporal tiles by default: 5 latents each, every 3 latents one, the 4 frames that two
share cross-faded. Its normalisation spans a tile's time, so only the same tiles give the same frames. Here tiles are
decoded as they fill: the state holds the latents of the tile that fills and the last frames of the one before.
A clip of fewer latents than a tile, which the library decodes whole, is a first tile that was never full.

Source: `_decode` and `_temporal_tiled_decode` of AutoencoderKLHunyuanVideo in diffusers 0.42.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.diffusers_library import decoding_dtype, load_vae
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.models.hunyuan_video import FADE_FRAMES, TILE_LATENTS, TILE_STRIDE_LATENTS
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.spec import DecoderSpec, Geometry

_TILE_FRAMES: Final = 1 + 4 * (TILE_LATENTS - 1)


class HunyuanVideoDecoder:
    """Temporal tiles behind the decoder contract.

    State: `[n, C, h, w]` latents of the tile that fills, `[0 or 4, 3, H, W]` frames of the last tile that fade out.
    """

    def __init__(self, spec: DecoderSpec, vae: Any, widths: Sequence[int], device: torch.device) -> None:
        """Wrap the library's module, which already is on `device`; `widths` are its `block_out_channels`."""
        self.spec = spec
        self.dtype = decoding_dtype(device)
        self._vae = vae
        self._widths = widths
        self._device = device

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """No latents and no frames yet; where tiles lie doesn't depend on the clip's length."""
        del num_latents, first_latent
        height, width = geometry.frame_size(self.spec)
        latents = (0, geometry.channels, geometry.height, geometry.width)
        return [torch.zeros(shape, device=self._device, dtype=self.dtype) for shape in (latents, (0, 3, height, width))]

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """Take latents as they come, until the tile that fills is full: a chunk decodes one tile at most."""
        del ended
        behind_first = index - TILE_LATENTS
        missing = -behind_first if behind_first < 0 else TILE_STRIDE_LATENTS - behind_first % TILE_STRIDE_LATENTS
        return max(0, min(available, wanted, missing))

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to `[F, 3, H, W]`: 13 frames when they fill the first tile, 12 for others, else 0."""
        held, tail = state
        held = torch.cat([held, latents])
        if held.shape[0] < TILE_LATENTS:
            return tail[:0], [held, tail]
        frames = self._decode(held, tail)
        # Slices would keep the whole tile alive for as long as the session waits.
        return frames[:-FADE_FRAMES], [held[TILE_STRIDE_LATENTS:].clone(), frames[-FADE_FRAMES:].clone()]

    @torch.inference_mode()
    def flush(self, state: State) -> Tensor | None:
        """Frames of the tile that the clip's end left unfilled, None of a clip without latents."""
        held, tail = state
        return self._decode(held, tail) if held.shape[0] else None

    def state_bytes(self, geometry: Geometry) -> int:
        """The most there is between two chunks: all latents of a tile but one, and the frames that fade out."""
        height, width = geometry.frame_size(self.spec)
        latents = (TILE_LATENTS - 1) * geometry.channels * geometry.height * geometry.width
        return (latents + FADE_FRAMES * 3 * height * width) * self.dtype.itemsize

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """Of one tile, whatever the chunk.

        The most is held either by the last upsampling (four and a half tensors like the last block's input: both halves
        of time, joined, padded, convolved, and what they are made of), or by the middle block's attention (a causal
        mask over all positions of a tile, made in float32). Counted with diffusers 0.42.1 on torch's meta device,
        without libraries' workspaces and with attention that isn't fused.
        """
        del num_latents
        height, width = geometry.frame_size(self.spec)
        upsampling = 4.5 * self._widths[1] * _TILE_FRAMES * height * width * self.dtype.itemsize
        positions = TILE_LATENTS * geometry.height * geometry.width
        attention = (8 + self.dtype.itemsize) * positions**2
        return int(max(upsampling, attention))

    def _decode(self, held: Tensor, tail: Tensor) -> Tensor:
        """Frames of a tile `[n, C, h, w]`, the first of them faded over from `tail`, which is empty for the first."""
        decoded = self._vae.decoder(self._vae.post_quant_conv(held.transpose(0, 1)[None].contiguous()))
        if tail.shape[0]:
            # The tile's first latent gave its picture with the tile before.
            decoded = self._vae.blend_t(tail.transpose(0, 1)[None], decoded[:, :, 1:], FADE_FRAMES)
        frames: Tensor = decoded[0].transpose(0, 1)
        return frames


def load_hunyuan_video(model: Model, device: torch.device, plans: PlanTable | None) -> HunyuanVideoDecoder:
    """Load a folder's weights into a decoder on `device`.

    Raises:
        InvalidInput: diffusers isn't installed, or the weights are not those of this model.
    """
    del plans
    vae = load_vae(model, "AutoencoderKLHunyuanVideo", device, decoding_dtype(device))
    return HunyuanVideoDecoder(model.spec, vae, model.config["block_out_channels"], device)
