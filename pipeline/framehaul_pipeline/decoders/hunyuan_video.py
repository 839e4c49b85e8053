"""HunyuanVideo 1.0's decoder: by our engine on CUDA, else by diffusers. For the worker process alone.

The library decodes a clip in temporal tiles by default: 5 latents each, every 3 latents one, the 4 frames that two
share cross-faded. Its normalisation spans a tile's time, so only the same tiles give the same frames. Here tiles are
decoded as they fill: the state holds the latents of the tile that fills and the last frames of the one before.
A clip of fewer latents than a tile, which the library decodes whole, is a first tile that was never full.

Source: `_decode` and `_temporal_tiled_decode` of AutoencoderKLHunyuanVideo in diffusers 0.42.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.diffusers_library import can_run_engine, decoding_dtype, load_vae
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.decoders.tiles import TiledDecoder
from framehaul_pipeline.models.hunyuan_video import FADE_FRAMES, TILE_LATENTS, TILE_STRIDE_LATENTS
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.spec import DecoderSpec, Geometry

_TILE_FRAMES: Final = 1 + 4 * (TILE_LATENTS - 1)
_LEFT_LATENTS: Final = range(TILE_LATENTS - TILE_STRIDE_LATENTS, TILE_LATENTS)
"""Of a last tile that the clip's end leaves unfilled, but for a clip of one tile."""


class HunyuanVideoDecoder(TiledDecoder):
    """Temporal tiles through the library's module: 13 frames with the first, 12 with each that follows."""

    def __init__(self, spec: DecoderSpec, vae: Any, widths: Sequence[int], device: torch.device) -> None:
        """Wrap the library's module, which already is on `device`; `widths` are its `block_out_channels`."""
        super().__init__(spec, device, decoding_dtype(device), fade_frames=FADE_FRAMES)
        self._vae = vae
        self._widths = widths

    @torch.inference_mode()
    def flush(self, state: State) -> Tensor | None:
        """Frames of the tile that the clip's end left unfilled, None of a clip without latents."""
        held, tail = state
        return self._decode(held, tail) if held.shape[0] else None

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
        frames = self._frames(held)
        # The tile's first latent gave its picture with the tile before.
        return self._fade(frames[1:], tail) if len(tail) else frames

    def _frames(self, held: Tensor) -> Tensor:
        """All frames of a tile."""
        frames: Tensor = self._vae.decoder(self._vae.post_quant_conv(held.transpose(0, 1)[None].contiguous()))[0]
        return frames.transpose(0, 1)


class CudaHunyuanVideoDecoder(HunyuanVideoDecoder):
    """Temporal tiles in half precision, through our engine."""

    def __init__(
        self, spec: DecoderSpec, vae: Any, widths: Sequence[int], device: torch.device, plans: PlanTable | None
    ) -> None:
        """Lay out the weights of the library's module in float32; without `plans`, PyTorch runs its convolutions."""
        # Triton is there where CUDA is.
        from framehaul_pipeline.decoders.diffusers_engine import RecordedEngine

        super().__init__(spec, None, widths, device)
        self._engine = RecordedEngine(vae, device, plans)

    def preparing(self) -> AbstractContextManager[None]:
        """Within it, a tile takes the time to find the fastest kernels, and tiles are recorded for later ones."""
        return self._engine.preparing()

    def forget(self) -> None:
        """Drop what was recorded; plans stay."""
        self._engine.forget()

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """Of one tile, whatever the chunk.

        The most is held by the last stage's first block: what enters it, that normalised and with its edges around,
        and what its first convolution gives. As much as the tile's frames is for what is small beside that.
        """
        del num_latents
        height, width = geometry.frame_size(self.spec)
        positions = _TILE_FRAMES * height * width
        edged = (_TILE_FRAMES + 2) * (height + 2) * (width + 2)
        values = (positions + edged) * self._widths[1] + positions * (self._widths[0] + 3)
        return values * self.dtype.itemsize

    def _frames(self, held: Tensor) -> Tensor:
        frames = self._engine.decode(held)
        if self._engine.is_preparing:
            for shorter in reversed(_LEFT_LATENTS):
                self._engine.record(held[:shorter])
        return frames


def load_hunyuan_video(model: Model, device: torch.device, plans: PlanTable | None) -> HunyuanVideoDecoder:
    """Load a folder's weights into a decoder on `device`.

    On CUDA our engine runs it, by `plans`, but for shapes and activations that no published model has.

    Raises:
        InvalidInput: diffusers isn't installed, or the weights are not those of this model.
    """
    widths = model.config["block_out_channels"]
    if device.type == "cuda" and can_run_engine(model.config):
        vae = load_vae(model, "AutoencoderKLHunyuanVideo", device, torch.float32)
        return CudaHunyuanVideoDecoder(model.spec, vae, widths, device, plans)
    vae = load_vae(model, "AutoencoderKLHunyuanVideo", device, decoding_dtype(device))
    return HunyuanVideoDecoder(model.spec, vae, widths, device)
