"""The ways to decode Wan latents that are compared: diffusers, the same compiled, fastvae, ours. Imports torch.

`DiffusersDecoder` is diffusers' loop behind the product's decoder contract: the baseline's process can stream it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from diffusers.utils import logging
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.wan_decode import OURS
from framehaul_pipeline.decoders.base import Decoder, State
from framehaul_pipeline.decoders.engine.convolution import open_plans
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.device.devices import open_device
from framehaul_pipeline.link.heirloom import Heirloom
from framehaul_pipeline.models.model import Model, describe_model
from framehaul_pipeline.spec import Geometry

Decode = Callable[[Tensor], Tensor]
"""Latents `[1, C, T, h, w]` to frames `[1, 3, F, H, W]`, all of them on the device."""

_RECOMPILE_LIMIT: Final = 64  # the first, the second and later latents of each size
logging.set_verbosity_error()


def load_diffusers(folder: str, device: torch.device, dtype: torch.dtype) -> AutoencoderKLWan:
    """The library's own module, as a user loads it, with cuDNN choosing its algorithms by trial."""
    torch.backends.cudnn.benchmark = True
    vae = AutoencoderKLWan.from_pretrained(folder, torch_dtype=dtype).to(device).eval()
    assert isinstance(vae, AutoencoderKLWan)
    return vae


def load_decode(kind: str, folder: str, device: str) -> Decode:
    """Load one of `float32`, `diffusers`, `compiled`, `fastvae`, `ours-N` (N latents a step)."""
    if kind.startswith(OURS):
        return _load_ours(folder, device, int(kind.removeprefix(OURS)))
    target = torch.device(device)
    dtype = torch.bfloat16 if target.type == "cuda" and kind != "float32" else torch.float32
    vae = load_diffusers(folder, target, dtype)
    if kind == "fastvae":
        from fastvae import FastVAEDecoder

        decoder = FastVAEDecoder.from_vae(vae).to(target)
        return lambda latents: decoder.decode(latents.to(dtype))
    if kind == "compiled":
        torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
        vae.decoder.compile(dynamic=False)
    if kind == "float32":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return lambda latents: vae.decode(latents.to(dtype), return_dict=False)[0]


def _load_ours(folder: str, device: str, count: int) -> Decode:
    target = open_device(device).torch_device
    decoder = load_decoder(describe_model(f"wan={folder}"), target, open_plans(target, Heirloom.create()))
    return lambda latents: decode_in_chunks(decoder, latents[0].movedim(0, 1).to(decoder.dtype), count)


def decode_in_chunks(decoder: Decoder, latents: Tensor, count: int) -> Tensor:
    """Decode `[T, C, h, w]` by at most `count` latents a step; frames `[1, 3, F, H, W]` as the rivals give them."""
    geometry = Geometry(channels=latents.shape[1], height=latents.shape[2], width=latents.shape[3])
    height, width = geometry.frame_size(decoder.spec)
    num_frames = decoder.spec.num_frames(len(latents))
    frames = torch.empty(num_frames, 3, height, width, dtype=decoder.dtype, device=latents.device)
    state = decoder.open(geometry, len(latents))
    taken = given = 0
    while taken < len(latents):
        chosen = decoder.next_chunk(taken, len(latents) - taken, count, ended=True)
        chunk, state = decoder.step(latents[taken : taken + chosen], state)
        frames[given : given + len(chunk)] = chunk
        taken, given = taken + chosen, given + len(chunk)
    return frames.movedim(0, 1)[None]


def count_flop(folder: str, latents: int, height: int, width: int) -> float:
    """Arithmetic of diffusers' decode, counted without doing it; every latent from the second on costs the same."""
    with torch.device("meta"):
        vae = AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(folder)).eval()
    factor = vae.config.scale_factor_spatial

    def count(few: int) -> int:
        given = torch.empty(1, vae.config.z_dim, few, height // factor, width // factor, device="meta")
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            vae.decode(given)
        return int(counter.get_total_flops())

    first, both = count(1), count(2)
    return float(first + (latents - 1) * (both - first))


class DiffusersDecoder:
    """Diffusers' loop over latents, step by step. Its cache is the session's state: entries may be None or a word."""

    def __init__(self, model: Model, device: torch.device) -> None:
        """Load the weights."""
        assert model.path is not None, "weights lie in a folder"
        self.spec = model.spec
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._vae: Any = load_diffusers(model.path, device, self.dtype)

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """An empty cache."""
        del geometry, num_latents, first_latent
        self._vae.clear_cache()
        return list(self._vae._feat_map)

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """Any number: the library takes them one by one."""
        del index, ended
        return max(0, min(available, wanted))

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` as `AutoencoderKLWan._decode` does."""
        vae, parts = self._vae, []
        for latent in vae.post_quant_conv(latents.movedim(0, 1)[None]).split(1, dim=2):
            first = state[0] is None
            parts.append(vae.decoder(latent, feat_cache=state, feat_idx=[0], first_chunk=first))
        frames = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        if vae.config.patch_size is not None:
            frames = unpatchify(frames, patch_size=vae.config.patch_size)
        return frames.clamp(-1.0, 1.0)[0].movedim(0, 1), state

    def flush(self, state: State) -> Tensor | None:
        """Nothing is held back."""
        del state
        return None

    def state_bytes(self, geometry: Geometry) -> int:
        """What the specification says."""
        height, width = geometry.frame_size(self.spec)
        return int(self.spec.state_bytes_per_pixel * height * width)

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """Not known, and not asked for outside the worker."""
        del geometry, num_latents
        return 0
