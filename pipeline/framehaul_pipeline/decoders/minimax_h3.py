"""MiniMax-H3's video decoder, through the diffusers library. For the worker process alone.

The library decodes a clip in temporal tiles of 7 latents each, every 5 latents one, and cross-fades the 5 frames that
two share; each tile in spatial tiles, which are part of the result. A decode of 7 latents alone is one tile: its 17
frames and the 5 that fade. Here tiles are decoded as they fill. At a clip's end the tile that fills is filled up with
its last latent, and the frames that come of it are left out.

Source: `_decode` of AutoencoderKLMiniMaxH3 in diffusers 0.42.1, which decodes no clip of fewer than 3 latents.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.diffusers_library import decoding_dtype, load_vae
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.decoders.tiles import TiledDecoder
from framehaul_pipeline.models.minimax_h3 import (
    CLIP_FRAMES,
    FADE_FRAMES,
    FADE_LATENTS,
    PIXEL_MEAN,
    PIXEL_STD,
    SPATIAL_FACTOR,
    TILE_LATENTS,
)
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.spec import DecoderSpec, Geometry

_TILE_FRAMES: Final = CLIP_FRAMES + FADE_FRAMES
_TILE_CELLS: Final = 256 // SPATIAL_FACTOR
"""Of a spatial tile, each way: the library's `tile_sample_min_height` and `tile_sample_min_width`."""


class MiniMaxH3Decoder(TiledDecoder):
    """Temporal tiles: 17 frames with each."""

    def __init__(self, spec: DecoderSpec, vae: Any, width: int, device: torch.device) -> None:
        """Wrap the library's module, which already is on `device`; `width` is that of its layers."""
        super().__init__(spec, device, decoding_dtype(device), fade_frames=FADE_FRAMES)
        self._vae = vae
        self._width = width
        # Frames come out as ImageNet's pictures are fed to networks; the contract asks for -1..1.
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        self._scale, self._shift = 2 * std, 2 * mean - 1

    @torch.inference_mode()
    def flush(self, state: State) -> Tensor | None:
        """Frames of the tile that the clip's end left unfilled, None of a clip without latents."""
        held, tail = state
        if len(held) == 0:
            return None
        if len(tail) and len(held) == FADE_LATENTS:
            return self._shown(tail)
        filled = torch.cat([held, held[-1:].expand(TILE_LATENTS - len(held), -1, -1, -1)])
        return self._shown(self._decode(filled, tail)[: self.spec.num_frames(len(held))])

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """Of one tile, whatever the chunk: a layer's values, and the tile's frames, whole and in spatial tiles.

        Counted with diffusers 0.42.1 on torch's meta device.
        """
        del num_latents
        height, width = geometry.frame_size(self.spec)
        cells = min(geometry.height, _TILE_CELLS) * min(geometry.width, _TILE_CELLS)
        layer = 14 * TILE_LATENTS * cells * self._width * torch.float32.itemsize
        # Spatial tiles overlap by a quarter of their side at least.
        frames = 3 * _TILE_FRAMES * height * width * 6 * torch.float32.itemsize
        return layer + frames

    def _decode(self, held: Tensor, tail: Tensor) -> Tensor:
        decoded: Tensor = self._vae.decode(held.transpose(0, 1)[None].contiguous(), return_dict=False)[0]
        return self._fade(decoded[0].transpose(0, 1).to(self.dtype), tail)

    def _shown(self, frames: Tensor) -> Tensor:
        return frames.float() * self._scale + self._shift


def load_minimax_h3(model: Model, device: torch.device, plans: PlanTable | None) -> MiniMaxH3Decoder:
    """Load a folder's weights into a decoder on `device`.

    Raises:
        InvalidInput: diffusers isn't installed, or the weights are not those of this model.
    """
    del plans
    vae = load_vae(model, "AutoencoderKLMiniMaxH3", device, decoding_dtype(device))
    config = model.config
    # Its angles are no weights, and the module was made without memory.
    rotated = int(config["decoder_attention_head_dim"] * config["decoder_rope_dim_ratio"])
    vae.decoder.rope = type(vae.decoder.rope)(rotated, theta=config["decoder_rope_theta"]).to(device)
    width = config["decoder_num_attention_heads"] * config["decoder_attention_head_dim"]
    return MiniMaxH3Decoder(model.spec, vae, width, device)
