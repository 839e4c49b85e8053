"""HunyuanVideo 1.5's decoder, of the diffusers library's modules. For the worker process alone.

The library decodes a whole clip. Its convolutions look back two frames, and its attention over all frames before and
its own. Here each convolution remembers the last two frames that it saw, and the attention the keys and values of all
latents, so any chunking gives the frames of the whole clip. The attention works latent by latent, so it needs no mask.

Source: `forward` of HunyuanVideo15Decoder3D and of its parts in diffusers 0.42.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.diffusers_library import decoding_dtype, load_vae
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.models.hunyuan_video_15 import DIFFUSERS_CLASS, convolved, rename_hunyuan_video_15
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.spec import UNTOLD_LATENTS, DecoderSpec, Geometry

_MAX_SCORES: Final = 1 << 24
"""Of attention, that are in memory at once where it isn't fused, for which its one head is too wide."""
_WORKSPACE_COPIES: Final = 7
"""Of the last stage's values, in its residual blocks. Counted with diffusers 0.42.1 on torch's meta device, without
libraries' workspaces."""


class HunyuanVideo15Decoder:
    """The decoder contract on the library's modules.

    State: of each convolution the last frames that it saw, `[1, C, 0 or 2, h, w]`, in their order; keys and values of
    the clip's latents, `[2, latents, h * w, C]`; and an empty tensor `[latents, 0]` that counts those that are there.
    """

    def __init__(self, spec: DecoderSpec, vae: Any, config: Mapping[str, Any], device: torch.device) -> None:
        """Wrap the library's module, which already is on `device`; `config` is what it was made from."""
        self.spec = spec
        self.dtype = decoding_dtype(device)
        self._net = vae.decoder
        self._convolved = convolved(config)
        self._width = config["block_out_channels"][-1]
        """Of the attention."""
        self._device = device

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """Room for the keys and values of the clip; a decode that starts in the middle has seen nothing but zeros."""
        num_seen = 2 if first_latent else 0
        histories = [
            self._zeros(1, channels, num_seen, geometry.height * scale, geometry.width * scale)
            for channels, scale in self._convolved
        ]
        capacity = UNTOLD_LATENTS if num_latents is None else num_latents
        cache = torch.empty(
            (2, capacity, geometry.height * geometry.width, self._width), device=self._device, dtype=self.dtype
        )
        return [*histories, cache, self._zeros(0, 0)]

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """Take any number of latents: every partition gives the same frames."""
        del index, ended
        return max(0, min(available, wanted))

    @torch.inference_mode()
    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to `[F, 3, H, W]`; of the clip's first latent comes one frame, of others four."""
        *histories, cache, counted = state
        layers = _Layers(histories)
        frames = self._decode(layers, latents.transpose(0, 1)[None], cache, counted.shape[0])
        return frames, [*layers.kept, cache, self._zeros(counted.shape[0] + len(latents), 0)]

    def flush(self, state: State) -> Tensor | None:
        """Nothing is held back."""
        del state
        return None

    def state_bytes(self, geometry: Geometry) -> int:
        """The convolutions' frames, and keys and values of `UNTOLD_LATENTS`."""
        itemsize_bytes: int = self.dtype.itemsize
        cached: int = 2 * UNTOLD_LATENTS * self._width
        seen = 2 * sum(channels * scale**2 for channels, scale in self._convolved)
        return (seen + cached) * geometry.height * geometry.width * itemsize_bytes

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """The last stage holds the most."""
        height, width = geometry.frame_size(self.spec)
        channels, _ = self._convolved[-1]
        frames = num_latents * self.spec.temporal_factor
        itemsize_bytes: int = self.dtype.itemsize
        return _WORKSPACE_COPIES * channels * frames * height * width * itemsize_bytes

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self._device, dtype=self.dtype)

    def _decode(self, layers: _Layers, x: Tensor, cache: Tensor, num_before: int) -> Tensor:
        net = self._net
        begins = layers.begins
        x = layers.convolve(net.conv_in, x) + x.repeat_interleave(net.repeat, dim=1)
        first, second = net.mid_block.resnets
        x = layers.residual_block(first, x)
        x = x + _attend(net.mid_block.attentions[0], x, cache, num_before)
        x = layers.residual_block(second, x)
        for block in net.up_blocks:
            for resnet in block.resnets:
                x = layers.residual_block(resnet, x)
            for upsampler in block.upsamplers or ():
                x = _upsample(upsampler, layers.convolve(upsampler.conv, x), x, begins=begins)
        x = layers.convolve(net.conv_out, net.conv_act(net.norm_out(x)))
        return x[0].transpose(0, 1)


class _Layers:
    """One step through the decoder's convolutions, in their order: what each has seen before, and then has."""

    def __init__(self, seen: Sequence[Tensor]) -> None:
        """Start at the first layer."""
        self._seen = seen
        self.begins = seen[0].shape[2] == 0
        """The clip's first latent is in this step."""
        self.kept: list[Tensor] = []

    def convolve(self, module: Any, x: Tensor) -> Tensor:
        """Convolve frames `[1, C, T, h, w]` behind those before; the clip's first one has itself before it."""
        before = self._seen[len(self.kept)]
        x = torch.cat([x[:, :, :1].expand(-1, -1, 2, -1, -1) if self.begins else before, x], 2)
        last = x[:, :, -2:]
        self.kept.append(last.clone() if self.begins else before.copy_(last))
        convolved: Tensor = module.conv(pad(x, (1, 1, 1, 1, 0, 0), mode=module.pad_mode))
        return convolved

    def residual_block(self, block: Any, x: Tensor) -> Tensor:
        """A block that leaves the number of channels as it is."""
        inner = self.convolve(block.conv1, block.nonlinearity(block.norm1(x)))
        return self.convolve(block.conv2, block.nonlinearity(block.norm2(inner))) + x


def _attend(block: Any, x: Tensor, cache: Tensor, num_before: int) -> Tensor:
    """What the attention adds to `[1, C, T, h, w]`, T latents behind `num_before` whose keys and values are there."""
    normed = block.norm(x)
    queries, keys, values = (
        projection(normed)[0].permute(1, 2, 3, 0).flatten(1, 2) for projection in (block.to_q, block.to_k, block.to_v)
    )
    cache[0, num_before : num_before + len(keys)] = keys
    cache[1, num_before : num_before + len(keys)] = values
    attended: list[Tensor] = []
    for num_latents, own in enumerate(queries, num_before + 1):
        seen_keys, seen_values = cache[:, None, None, :num_latents].flatten(3, 4)
        attended.extend(
            scaled_dot_product_attention(part[None, None], seen_keys, seen_values)[0, 0]
            for part in own.split(max(1, _MAX_SCORES // seen_keys.shape[-2]))
        )
    together = torch.cat(attended).view(1, *x.shape[2:], -1).movedim(-1, 1)
    projected: Tensor = block.proj_out(together)
    return projected


def _upsample(upsampler: Any, convolved: Tensor, x: Tensor, *, begins: bool) -> Tensor:
    """Make frames larger, and two of one where the layer doubles time, but for the clip's first one."""
    spread, repeats = upsampler._dcae_upsample_rearrange, upsampler.repeats
    doubles_time: bool = upsampler.add_temporal_upsample
    num_single = int(begins and doubles_time)
    made: Tensor = spread(convolved[:, :, num_single:], r1=1 + doubles_time)
    made = made + spread(x[:, :, num_single:], r1=1 + doubles_time).repeat_interleave(repeats, dim=1)
    if not num_single:
        return made
    first = spread(convolved[:, :, :1])[:, : made.shape[1]]
    first = first + spread(x[:, :, :1]).repeat_interleave(repeats // 2, dim=1)
    return torch.cat([first, made], 2)


def load_hunyuan_video_15(model: Model, device: torch.device, plans: PlanTable | None) -> HunyuanVideo15Decoder:
    """Load a model's weights into a decoder on `device`.

    Raises:
        InvalidInput: diffusers isn't installed, or the weights are not those of this model.
    """
    del plans
    config = {name: value for name, value in model.config.items() if name != "shift_factor"}
    of_library = msgspec.structs.replace(model, config=config)
    vae = load_vae(of_library, DIFFUSERS_CLASS, device, decoding_dtype(device), rename_hunyuan_video_15)
    return HunyuanVideo15Decoder(model.spec, vae, config, device)
