"""LTX-Video's and LTX-2's decoders, of the diffusers library's modules. For the worker process alone.

The library decodes a whole clip, since its convolutions look ahead. Here each layer goes as far as its inputs are there
and remembers the last two of them, so any chunking gives the frames of the whole clip. What a layer adds to its results
waits until they come. Behind the clip's last latent each blank one ends as many layers, from the first on, as bring the
frames of a latent: a layer that ends sees its last frame twice, as in the library.

Decoders that are told how noisy their latents are get noise added to them, and some add noise of their own. The library
draws it from PyTorch's generator. Here it follows from a latent's place in the clip and from the layer alone, so that a
clip gives the same frames each time, in any chunking and after a worker's death.

Source: `forward` of LTXVideoDecoder3d and LTX2VideoDecoder3d and of their parts in diffusers 0.42.1; `__call__` of
LTXPipeline for the noise in latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.diffusers_library import decoding_dtype, load_vae
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.models.ltx import LTX_VIDEO, LtxConfig, ltx_held_back, ltx_kept
from framehaul_pipeline.models.ltx_names import rename_ltx
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.spec import DecoderSpec, Geometry

_LAYER_NOISE_SEED: Final = 0
"""Latents' seeds are 1 for the first one, and so on."""
_WORKSPACE_COPIES: Final = 6
"""Of the last stage's values, in the residual blocks; and one more where padding makes a copy. Counted with diffusers
0.42.1 on torch's meta device, and seen on an H200."""


class LtxDecoder:
    """The decoder contract on the library's modules.

    State: what `ltx_kept` says, in its order, as `[1, C, n, h, w]`, noise as `[h, w]`; `[n, 3, H, W]` frames that wait
    to be given with the next latent's; and an empty tensor `[latents, blanks, 0]` that counts what came.
    """

    def __init__(self, spec: DecoderSpec, vae: Any, config: LtxConfig, device: torch.device) -> None:
        """Wrap the library's module, which already is on `device`."""
        self.spec = spec
        self.dtype = decoding_dtype(device)
        self._net = vae.decoder
        self._config = config
        self._device = device
        self._kept = ltx_kept(config)
        _, self._waiting_frames = ltx_held_back(config)
        later_by = [each.later_by for each in self._kept if each.kind == "convolution"]
        ended = list(accumulate(later_by))
        self._ends = [sum(end <= spec.temporal_factor * blank for end in ended) for blank in range(spec.num_blanks)]
        self._ends.append(len(later_by))
        """After each number of blanks, how many convolutions have ended."""
        self._embedded = self._embed_timestep()

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """Nothing yet, but the noise of the layers."""
        del num_latents, first_latent
        generator = torch.Generator().manual_seed(_LAYER_NOISE_SEED)
        state = []
        for each in self._kept:
            height, width = geometry.height * each.scale, geometry.width * each.scale
            if each.kind == "noise":
                state.append(torch.randn(height, width, generator=generator).to(self._device, self.dtype))
            else:
                state.append(self._empty(1, each.channels, 0, height, width))
        return [*state, self._empty(0, 3, *geometry.frame_size(self.spec)), self._empty(0, 0, 0)]

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """Take any number of latents: every partition gives the same frames."""
        del index, ended
        return max(0, min(available, wanted))

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to `[F, 3, H, W]`."""
        counts = state[-1]
        if part := self._config.decode_noise_scale:
            latents = (1 - part) * latents + part * self._noise(latents, counts.shape[0])
        return self._advance(latents, 0, state)

    @torch.inference_mode()
    def drain(self, num_blanks: int, state: State) -> tuple[Tensor, State]:
        """End as many layers as bring the frames of `num_blanks` latents."""
        *_, waiting, _ = state
        height, width = (each // self.spec.spatial_factor for each in waiting.shape[2:])
        return self._advance(self._empty(0, self.spec.channels, height, width), num_blanks, state)

    def flush(self, state: State) -> Tensor | None:
        """Nothing: the blanks have brought all frames."""
        del state
        return None

    def state_bytes(self, geometry: Geometry) -> int:
        """The most there is between two chunks."""
        height, width = geometry.frame_size(self.spec)
        cells = sum(each.channels * each.scale**2 * each.num_frames for each in self._kept)
        waiting = self._waiting_frames * 3 * height * width
        itemsize_bytes: int = self.dtype.itemsize
        return (cells * geometry.height * geometry.width + waiting) * itemsize_bytes

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """The last stage's residual blocks hold the most; and the new state, while the old one is there."""
        last = self._kept[-1]
        frames = num_latents * self.spec.temporal_factor
        values = last.channels * frames * geometry.height * geometry.width * last.scale**2
        pads = self._config.library.get("decoder_spatial_padding_mode", "zeros") != "zeros"
        itemsize_bytes: int = self.dtype.itemsize
        return (_WORKSPACE_COPIES + int(pads)) * values * itemsize_bytes + self.state_bytes(geometry)

    def _advance(self, latents: Tensor, num_blanks: int, state: State) -> tuple[Tensor, State]:
        *kept, waiting, counts = state
        num_latents, num_before = counts.shape[0] + len(latents), counts.shape[1]
        num_blanks += num_before
        ends = range(self._ends[num_before], self._ends[num_blanks]) if num_blanks else range(0)
        layers = _Layers(kept, ends, causal=self._config.causal)
        frames = torch.cat([waiting, self._decode(layers, latents.transpose(0, 1)[None])])
        is_last = 0 < self.spec.num_blanks == num_blanks
        num_out = len(frames) if is_last else max(0, len(frames) - self._waiting_frames)
        # A slice would keep all of the chunk's frames alive for as long as the session waits.
        return frames[:num_out], [*layers.kept, frames[num_out:].clone(), self._empty(num_latents, num_blanks, 0)]

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, device=self._device, dtype=self.dtype)

    def _noise(self, latents: Tensor, first_index: int) -> Tensor:
        noise = torch.empty_like(latents)
        for index, latent in enumerate(noise, first_index + 1):
            latent.copy_(torch.randn(latent.shape, generator=torch.Generator().manual_seed(index)))
        return noise

    @torch.inference_mode()
    def _embed_timestep(self) -> list[Tensor | None]:
        """Of the middle block, of each other one, and of the end; None where the decoder isn't told of noise."""
        parts = [self._net.mid_block, *self._net.up_blocks, self._net]
        if self._config.decode_timestep is None:
            return [None] * len(parts)
        timestep = torch.tensor([self._config.decode_timestep], device=self._device, dtype=self.dtype)
        timestep = timestep * self._net.timestep_scale_multiplier
        embedded = [
            part.time_embedder(
                timestep=timestep, resolution=None, aspect_ratio=None, batch_size=1, hidden_dtype=self.dtype
            )
            for part in parts
        ]
        return [each.view(1, -1, 1, 1, 1) for each in embedded]

    def _decode(self, layers: _Layers, x: Tensor) -> Tensor:
        net = self._net
        embedded, *others, last = self._embedded
        x = layers.convolve(net.conv_in, x)
        for resnet in net.mid_block.resnets:
            x = self._residual_block(layers, resnet, x, embedded)
        for block, embedded in zip(net.up_blocks, others, strict=True):
            if block.conv_in is not None:
                x = self._residual_block(layers, block.conv_in, x, None)
            for upsampler in block.upsamplers or ():
                x = _upsample(layers, upsampler, x)
            for resnet in block.resnets:
                x = self._residual_block(layers, resnet, x, embedded)
        x = self._norm(net.norm_out, x)
        if last is not None:
            shift, scale = _scales(last, net.scale_shift_table)
            x = x * (1 + scale) + shift
        x = layers.convolve(net.conv_out, net.conv_act(x))
        # Of a patch's channels the last ones lie below each other.
        patch = self._config.patch_size
        x = x.unflatten(1, (3, patch, patch)).permute(0, 4, 1, 5, 3, 6, 2)
        return x.flatten(5, 6).flatten(3, 4)[0]

    def _residual_block(self, layers: _Layers, block: Any, inputs: Tensor, embedded: Tensor | None) -> Tensor:
        x = inputs
        for norm, conv, strength, first in (
            (block.norm1, block.conv1, block.per_channel_scale1, 0),
            (block.norm2, block.conv2, block.per_channel_scale2, 2),
        ):
            x = self._norm(norm, x)
            if embedded is not None:
                shift, scale = _scales(embedded, block.scale_shift_table)[first : first + 2]
                x = x * (1 + scale) + shift
            x = layers.convolve(conv, block.nonlinearity(x))
            if strength is not None:
                x = x + (layers.keep()[None] * strength)[None, :, None]
        added = layers.delay(inputs, x.shape[2])
        for part, frames in zip(added, x.split([part.shape[2] for part in added], 2), strict=True):
            if part.shape[2]:
                frames.add_(part if block.conv_shortcut is None else _shortcut(block, part))
        return x

    def _norm(self, norm: Any, x: Tensor) -> Tensor:
        if self._config.class_name == LTX_VIDEO:
            normed: Tensor = norm(x.movedim(1, -1)).movedim(-1, 1)
            return normed
        normed = norm(x)
        return normed


class _Layers:
    """One step through a decoder's layers, in their order: what each remembers is taken, and what it then remembers."""

    def __init__(self, kept: Sequence[Tensor], ends: range, *, causal: bool) -> None:
        """Start at the first layer; the convolutions numbered in `ends` get no more inputs."""
        self._before = kept
        self._ends = ends
        self._causal = causal
        self._num_convolutions = 0
        self.kept: list[Tensor] = []

    @property
    def begins(self) -> bool:
        """Whether the next layer, a convolution, has seen nothing yet."""
        return self._before[len(self.kept)].shape[2] == 0

    def convolve(self, module: Any, x: Tensor) -> Tensor:
        """Convolve as many frames `[1, C, T, h, w]` as have all their neighbours."""
        seen, conv = self._before[len(self.kept)], module.conv
        ends = self._num_convolutions in self._ends
        self._num_convolutions += 1
        if x.shape[2] == 0 and not ends:
            self.kept.append(seen)
            return x.new_empty(1, conv.out_channels, 0, *x.shape[3:])
        if seen.shape[2] == 0:
            seen = x[:, :, :1].repeat(1, 1, 2 if self._causal else 1, 1, 1)
        x = torch.cat([seen, x, x[:, :, -1:] if x.shape[2] else seen[:, :, -1:]][: 3 if ends else 2], 2)
        self.kept.append(x[:, :, -2:].clone())
        if x.shape[2] < 3:
            return x.new_empty(1, conv.out_channels, 0, *x.shape[3:])
        convolved: Tensor = conv(x)
        return convolved

    def delay(self, x: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        """The first frames of those that wait and of `x` behind them, from either; the others wait on."""
        waiting = self._before[len(self.kept)]
        if x.shape[2] == num_frames == 0:
            self.kept.append(waiting)
            return x, x
        first = min(num_frames, waiting.shape[2])
        rest = num_frames - first
        self.kept.append(torch.cat([waiting[:, :, first:], x[:, :, rest:]], 2))
        return waiting[:, :, :first], x[:, :, :rest]

    def keep(self) -> Tensor:
        """What is remembered unchanged."""
        self.kept.append(self._before[len(self.kept)])
        return self.kept[-1]


def _shortcut(block: Any, x: Tensor) -> Tensor:
    widened: Tensor = block.conv_shortcut(block.norm3(x.movedim(1, -1)).movedim(-1, 1))
    return widened


def _scales(embedded: Tensor, table: Tensor) -> Sequence[Tensor]:
    scales: Sequence[Tensor] = (embedded.unflatten(1, (len(table), -1)) + table[None, ..., None, None, None]).unbind(1)
    return scales


def _upsample(layers: _Layers, upsampler: Any, x: Tensor) -> Tensor:
    """Make frames more and larger; the clip's first one is made one frame alone."""
    convolved = layers.convolve(upsampler.conv, x)
    added = torch.cat(layers.delay(x, convolved.shape[2]), 2) if upsampler.residual else None
    left_out = upsampler.stride[0] - 1 if layers.begins else 0
    spread = _spread(convolved, upsampler.stride)[:, :, left_out:]
    if added is None:
        return spread
    repeats = upsampler.stride[0] * upsampler.stride[1] * upsampler.stride[2] // upsampler.upscale_factor
    return spread + _spread(added, upsampler.stride).repeat(1, repeats, 1, 1, 1)[:, :, left_out:]


def _spread(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    x = x.unflatten(1, (-1, *stride)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def load_ltx(model: Model, device: torch.device, plans: PlanTable | None) -> LtxDecoder:
    """Load a folder's weights into a decoder on `device`.

    Raises:
        InvalidInput: diffusers isn't installed, or the weights are not those of this model.
    """
    del plans
    config = msgspec.convert(model.config, LtxConfig)
    of_library = msgspec.structs.replace(model, config=config.library)
    vae = load_vae(of_library, config.class_name, device, decoding_dtype(device), rename_ltx)
    return LtxDecoder(model.spec, vae, config, device)
