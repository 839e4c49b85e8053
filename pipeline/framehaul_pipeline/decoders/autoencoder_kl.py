"""AutoencoderKL, the picture VAE of Stable Diffusion, SDXL, SD 3 and Flux: by our engine on CUDA, else by diffusers.

For the worker process alone. Every latent is a picture of its own, so there is no state. Pictures are decoded one by
one: frames are the same to the bit in any chunking, memory is one picture's, and a single one fills a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.diffusers_library import can_run_engine, decoding_dtype, load_vae
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.spec import DecoderSpec, Geometry


class AutoencoderKLDecoder:
    """A picture VAE behind the decoder contract, through the library's module."""

    def __init__(self, spec: DecoderSpec, vae: Any, widths: Sequence[int], dtype: torch.dtype) -> None:
        """Wrap the library's module, which already is on its device; `widths` are its `block_out_channels`."""
        self.spec = spec
        self.dtype = dtype
        self._vae = vae
        self._widths = widths

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """Nothing is remembered."""
        del geometry, num_latents, first_latent
        return []

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """Take any number of latents."""
        del index, ended
        return max(0, min(available, wanted))

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to frames `[T, 3, H, W]`."""
        pictures = latents.contiguous(memory_format=layout(self.dtype)).split(1)
        return torch.cat([self._vae.decode(picture, return_dict=False)[0] for picture in pictures]), state

    def flush(self, state: State) -> Tensor | None:
        """Nothing is held back."""
        del state
        return None

    def state_bytes(self, geometry: Geometry) -> int:
        """None."""
        del geometry
        return 0

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """Of one picture, whatever the chunk, and the chunk's frames.

        The most is held by the last block's first layer: its input, normalised, activated; a fourth for a copy to
        another layout. Counted with diffusers 0.42.1 on torch's meta device, without libraries' workspaces and with
        attention that is fused.
        """
        height, width = geometry.frame_size(self.spec)
        channels = 4 * self._widths[min(1, len(self._widths) - 1)] + 3 * num_latents
        return channels * height * width * self.dtype.itemsize


class CudaAutoencoderKLDecoder(AutoencoderKLDecoder):
    """A picture VAE in half precision, through our engine."""

    def __init__(
        self, spec: DecoderSpec, vae: Any, widths: Sequence[int], device: torch.device, plans: PlanTable | None
    ) -> None:
        """Lay out the weights of the library's module in float32; without `plans`, PyTorch runs its convolutions."""
        # Triton is there where CUDA is.
        from framehaul_pipeline.decoders.diffusers_engine import RecordedEngine

        super().__init__(spec, None, widths, torch.bfloat16)
        self._engine = RecordedEngine(vae, device, plans)

    def preparing(self) -> AbstractContextManager[None]:
        """Within it, `step` takes the time to find the fastest kernels, and records a picture for later ones."""
        return self._engine.preparing()

    def forget(self) -> None:
        """Drop what was recorded; plans stay."""
        self._engine.forget()

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to frames `[T, 3, H, W]`."""
        factor = self.spec.spatial_factor
        frames = latents.new_empty(len(latents), 3, *(factor * size for size in latents.shape[2:]))
        for picture, frame in zip(latents.split(1), frames.split(1), strict=True):
            frame.copy_(self._engine.decode(picture))
        return frames, state


def layout(dtype: torch.dtype) -> torch.memory_format:
    """Channels last where matrix units like it; on the CPU the library's own, so that frames equal its bit by bit."""
    return torch.contiguous_format if dtype is torch.float32 else torch.channels_last


def load_autoencoder_kl(model: Model, device: torch.device, plans: PlanTable | None) -> AutoencoderKLDecoder:
    """Load a folder's weights into a decoder on `device`.

    On CUDA our engine runs it, by `plans`, but for shapes and activations that no published model has.

    Raises:
        InvalidInput: diffusers isn't installed, or the weights are not those of this model.
    """
    if device.type == "cuda" and can_run_engine(model.config):
        vae = load_vae(model, "AutoencoderKL", device, torch.float32)
        return CudaAutoencoderKLDecoder(model.spec, vae, model.config["block_out_channels"], device, plans)
    dtype = decoding_dtype(device)
    vae = load_vae(model, "AutoencoderKL", device, dtype).to(memory_format=layout(dtype))
    return AutoencoderKLDecoder(model.spec, vae, model.config["block_out_channels"], dtype)
