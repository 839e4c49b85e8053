"""The TAEHV family behind the decoder contract. Imports torch: for the worker alone.

The network is the published one with its linear layers put together where nothing lies between them. At the end of a
stage it doubles the size by repeating pixels, makes of a frame two by a 1x1 convolution without a bias, and then
convolves 3x3. That is one convolution at the smaller size: of the pixels that a 3x3 window sees of a doubled picture,
four differ, so each of four 2x2 convolutions gives the pixels of one corner. Source: class TAEHV in taehv.py of
madebyollin/taehv at 1f14a56 (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.decoders.engine.weights import phase_weights
from framehaul_pipeline.decoders.recorded import RecordedDecoder, with_previous
from framehaul_pipeline.decoders.weights import read_tensors
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.models.taehv import (
    BLOCKS,
    LAST,
    LAYERS,
    SUPER_LAYERS,
    TaehvConfig,
    taehv_state_shapes,
)
from framehaul_pipeline.spec import DecoderSpec, Geometry

_LATENT_LIMIT: Final = 3.0
"""Latents are bent softly into (-3, 3)."""
_CORNERS: Final = 4
_ALIGNED: Final = 8
"""Matrix units want multiples of this."""
_LIBRARIES_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Tensors of a block, whose first layer sees each frame with the one before it.

    The usual one has three 3x3 convolutions with biases; the larger one a depthwise 7x7 and two 1x1.
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    depthwise: bool

    def __call__(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Frames, and the last of those that came in."""
        pairs, kept = _pair(x, last)
        if not self.depthwise:
            y = _conv_relu(pairs, self.weights[0], self.biases[0])
            y = _conv_relu(y, self.weights[1], self.biases[1])
            return _conv_add_relu(y, self.weights[2], x, self.biases[2]), kept
        y = functional.conv2d(pairs, self.weights[0], padding=3, groups=pairs.shape[1])
        y = _conv_relu(y, self.weights[1], self.biases[1])
        return functional.conv2d(y, self.weights[2]).add_(x), kept


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """Blocks, and then to frames of twice the size and `time_factor` times as many."""

    blocks: Sequence[_Block]
    enlarge: Tensor
    """Of the four corners' frames."""
    bias: Tensor | None
    activated: bool
    """Only what is positive is kept of the corners."""
    grow: Tensor | None
    """Of the larger variant, whose activation stands between the two: `[C, time_factor * C]`."""
    time_factor: int

    def __call__(self, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, State]:
        """Corners `[T, h + shared, w + shared, 4, time_factor, C]`, and what the blocks remember."""
        new: State = []
        for block, last in zip(self.blocks, state, strict=True):
            x, kept = block(x, last)
            new.append(kept)
        if self.activated:
            corners = _conv_relu(x, self.enlarge, self.bias)
        else:
            corners = functional.conv2d(x, self.enlarge, padding=1)
        places = corners.permute(0, 2, 3, 1).unflatten(3, (_CORNERS, -1))
        if self.grow is not None:
            places = places @ self.grow
        return places.unflatten(4, (self.time_factor, -1)), new


class TaehvNet:
    """The network: latents and state in, frames and state out."""

    def __init__(
        self, config: TaehvConfig, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        """Put the published tensors together, in float32, and lay them out on the device."""
        self.config = config

        def laid_out(tensor: Tensor) -> Tensor:
            placed = tensor.to(device=device, dtype=dtype)
            return placed.contiguous(memory_format=torch.channels_last) if placed.ndim == 4 else placed.contiguous()

        layers = SUPER_LAYERS if config.is_super else LAYERS
        parts = (0, 1, 3) if config.is_super else (0, 2, 4)
        self._stages = []
        for numbers, grow, leave, time_factor in zip(
            layers.blocks, layers.grows, layers.leaves, config.time_factors, strict=True
        ):
            blocks = []
            for number in numbers:
                names = [f"decoder.{number}.conv.{part}" for part in parts]
                biases = [tensors.get(f"{name}.bias") for name in names]
                blocks.append(
                    _Block(
                        weights=[laid_out(tensors[f"{name}.weight"]) for name in names],
                        biases=[None if bias is None else laid_out(bias) for bias in biases],
                        depthwise=config.is_super,
                    )
                )
            growing, leaving = tensors[f"decoder.{grow}.conv.weight"], tensors[f"decoder.{leave}.weight"]
            if config.is_super:
                enlarge, bias = (
                    part.unflatten(0, (-1, _CORNERS)).transpose(0, 1).flatten(0, 1)
                    for part in (leaving, tensors[f"decoder.{leave}.bias"])
                )
                grown = laid_out(growing[:, :, 0, 0].T)
                stage = _Stage(blocks, laid_out(enlarge), laid_out(bias), True, grown, time_factor)
            else:
                grown = growing[:, :, 0, 0].unflatten(0, (time_factor, -1))
                together = torch.einsum("omyx,smi->soiyx", leaving, grown).flatten(0, 1)
                is_last = leave == layers.leaves[-1]
                stage = _Stage(blocks, laid_out(phase_weights(together)), None, is_last, None, time_factor)
            self._stages.append(stage)
        enter = f"decoder.{layers.enter}"
        self._enter = laid_out(tensors[f"{enter}.weight"])
        self._enter_bias = None if config.is_super else laid_out(tensors[f"{enter}.bias"])
        # The network gives 0..1, the contract asks for -1..1.
        self._leave = laid_out(_by_taps(2 * tensors[f"decoder.{LAST}.weight"]))
        self._leave_bias = laid_out(2 * tensors[f"decoder.{LAST}.bias"] - 1)
        self._mean = self._std = None
        if config.latents_std:
            self._mean, self._std = (
                torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
                for values in (config.latents_mean, config.latents_std)
            )

    def __call__(self, latents: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, State]:
        """Decode a chunk.

        Args:
            latents: `[T, C, h, w]`.
            state: a frame `[1, C, H, W]` a block.

        Returns:
            Frames `[t * T, 3, H, W]` in about `[-1, 1]`, where `t` is how often time is multiplied, and the new state.
        """
        x = latents
        if self._mean is not None and self._std is not None:
            x = ((x.float() - self._mean) / self._std).to(latents.dtype)
        if self.config.is_super:
            x = functional.conv2d(x, self._enter)
        else:
            x = torch.tanh(x / _LATENT_LIMIT) * _LATENT_LIMIT
            x = _conv_relu(x, self._enter, self._enter_bias)
        new: State = []
        shared = 0 if self.config.is_super else 1
        for index, stage in enumerate(self._stages):
            corners, remembered = stage(x, state[index * BLOCKS : (index + 1) * BLOCKS])
            new += remembered
            if index + 1 < len(self._stages):
                x = _spread(corners, shared)
        # The last convolution has few results and would wait for memory: a matrix product, and sums of neighbours.
        return _sum_taps(corners @ self._leave, self._leave_bias, self.config.patch_size, shared), new


class TaehvDecoder(RecordedDecoder):
    """A decoder of the family. A clip's first latent gives one frame: those before it are of before the clip.

    With a period each such part's first latent does. The last tensor of the state has as many elements as latents are
    past since the last one that did; without a period one at most.
    """

    def __init__(self, spec: DecoderSpec, net: TaehvNet, device: torch.device, dtype: torch.dtype) -> None:
        """Take over a network on its device."""
        super().__init__(spec, device, dtype)
        self._net = net

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """Zeros, wherever the decode starts and however long the clip will be."""
        del num_latents
        shapes = taehv_state_shapes(self._net.config, geometry.height, geometry.width)
        state = [torch.zeros(1, *shape, dtype=self.dtype, device=self._device) for shape in shapes]
        mark = self._mark(first_latent)
        return [*(last.contiguous(memory_format=torch.channels_last) for last in state), mark]

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode `[T, C, h, w]` to frames `[F, 3, H, W]`; the given state is left as it was."""
        *last, mark = state
        frames, new = super().step(latents, last)
        past, period = mark.numel(), self.spec.period_latents
        parts, kept_from = [], 0
        for latent in range(-past % period, len(latents), period) if period else range(int(not past)):
            first = latent * self.spec.temporal_factor
            parts.append(frames[kept_from:first])
            kept_from = first + self.spec.temporal_factor - self.spec.first_frames
        parts = [part for part in (*parts, frames[kept_from:]) if len(part)]
        return parts[0] if len(parts) == 1 else torch.cat(parts), [*new, self._mark(past + len(latents))]

    def _mark(self, num_latents: int) -> Tensor:
        period = self.spec.period_latents
        past = num_latents % period if period else min(num_latents, 1)
        return torch.zeros(past, dtype=self.dtype, device=self._device)

    def _decode(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        frames, new = self._net(inputs[0], inputs[1:])
        return [frames, *new]

    def state_bytes(self, geometry: Geometry) -> int:
        """Device memory of one session's state."""
        shapes = taehv_state_shapes(self._net.config, geometry.height, geometry.width)
        itemsize_bytes: int = self.dtype.itemsize
        return (sum(c * h * w for c, h, w in shapes) + max(1, self.spec.period_latents)) * itemsize_bytes

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """The largest of what the stages hold at once, and the new state."""
        config, itemsize_bytes = self._net.config, self.dtype.itemsize
        frames, held = num_latents, 0
        for stage, (channels, following) in enumerate(pairwise(config.widths)):
            height, width = geometry.height << stage, geometry.width << stage
            # A block holds the stage's input, its own, the pairs, and two results; the larger one's are wider.
            block = (10 if config.is_super else 6) * channels * frames * height * width
            # Leaving: both inputs, and the corners before they have grown in time, after it, and where they belong.
            corners = _CORNERS * following * frames * (height + 1) * (width + 1)
            copies = int(config.is_super) + 2 * config.time_factors[stage]
            held = max(held, block, 2 * channels * frames * height * width + copies * corners)
            frames *= config.time_factors[stage]
        # The last convolution: corners, and their products with its weights; without its kernel, spread and padded.
        colours = 3 * config.patch_size**2
        products = 9 * colours + -9 * colours % _ALIGNED
        copies = 1 if self._device.type == "cuda" else 3
        held = max(held, _CORNERS * frames * (height + 1) * (width + 1) * (following + copies * (products + colours)))
        libraries_bytes = {"cuda": _LIBRARIES_BYTES, "cpu": held * itemsize_bytes}.get(self._device.type, 0)
        return held * itemsize_bytes + self.state_bytes(geometry) + libraries_bytes


def load_taehv(model: Model, device: torch.device, plans: PlanTable | None) -> TaehvDecoder:
    """Read a decoder of the family onto a device: in float16 on CUDA, in float32 on the CPU.

    Raises:
        InvalidInput: the weights are not those of the model's configuration.
    """
    del plans
    assert model.path is not None
    config = msgspec.convert(model.config, TaehvConfig)
    tensors = read_tensors(model.path, tensor_shapes(config), sha256=model.sha256)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    net = TaehvNet(config, {name: tensor.float() for name, tensor in tensors.items()}, device, dtype)
    return TaehvDecoder(model.spec, net, device, dtype)


def tensor_shapes(config: TaehvConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a decoder's tensors, by their published names."""
    layers = SUPER_LAYERS if config.is_super else LAYERS
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, into: int, out: int, size: int, *, bias: bool) -> None:
        shapes[f"decoder.{name}.weight"] = (out, into, size, size)
        if bias:
            shapes[f"decoder.{name}.bias"] = (out,)

    size = 1 if config.is_super else 3
    conv(f"{layers.enter}", config.latent_channels, config.widths[0], size, bias=not config.is_super)
    stages = zip(layers.blocks, layers.grows, layers.leaves, config.time_factors, pairwise(config.widths), strict=True)
    for blocks, grow, leave, time_factor, (width, following) in stages:
        for block in blocks:
            if config.is_super:
                conv(f"{block}.conv.0", 1, 2 * width, 7, bias=False)
                conv(f"{block}.conv.1", 2 * width, 4 * width, 1, bias=True)
                conv(f"{block}.conv.3", 4 * width, width, 1, bias=False)
            else:
                conv(f"{block}.conv.0", 2 * width, width, 3, bias=True)
                conv(f"{block}.conv.2", width, width, 3, bias=True)
                conv(f"{block}.conv.4", width, width, 3, bias=True)
        growing = following if config.is_super else width
        conv(f"{grow}.conv", growing, growing * time_factor, 1, bias=False)
        conv(f"{leave}", width, following * (_CORNERS if config.is_super else 1), 3, bias=config.is_super)
    conv(f"{LAST}", config.widths[-1], 3 * config.patch_size**2, 3, bias=True)
    return shapes


def _by_taps(weight: Tensor) -> Tensor:
    """Of a 3x3 convolution `[O, I, 3, 3]` the products of each place of its window: `[I, 9 * O]`, and zeros behind."""
    products = weight.permute(1, 2, 3, 0).flatten(1)
    return functional.pad(products, (0, -products.shape[1] % _ALIGNED))


def _pair(x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Each frame with the one before it, and the last frame; a slice would keep the whole chunk's alive."""
    if x.is_cuda:
        # Triton is there where CUDA is.
        from framehaul_pipeline.decoders.taehv_kernels import pair

        pairs, kept = pair(x.permute(0, 2, 3, 1), last.permute(0, 2, 3, 1))
        return pairs.permute(0, 3, 1, 2), kept.permute(0, 3, 1, 2)
    return with_previous(x, last), x[-1:].clone(memory_format=torch.channels_last)


def _spread(corners: Tensor, shared: int) -> Tensor:
    """Put corners where they belong.

    Args:
        corners: `[T, h + shared, w + shared, 4, n, C]`.
        shared: 1 for 2x2 convolutions, each of whose results lies between pixels: an upper left corner's window ends
            at the pixel, a lower right one's begins there.

    Returns:
        `[n * T, C, 2 * h, 2 * w]`, channels last.
    """
    if corners.is_cuda:
        from framehaul_pipeline.decoders.taehv_kernels import spread

        return spread(corners.contiguous(), shared).permute(0, 3, 1, 2)
    count, rows, columns, _, copies, channels = corners.shape
    height, width = rows - shared, columns - shared
    out = corners.new_empty(count, copies, height, 2, width, 2, channels)
    for lower in (0, 1):
        for right in (0, 1):
            y, x = lower * shared, right * shared
            part = corners[:, y : y + height, x : x + width, 2 * lower + right]
            out[:, :, :, lower, :, right] = part.permute(0, 3, 1, 2, 4)
    return out.view(count * copies, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def _sum_taps(products: Tensor, bias: Tensor, patch_size: int, shared: int) -> Tensor:
    """Frames `[n * T, 3, H, W]` from the products of corners and `_by_taps`."""
    if products.is_cuda:
        from framehaul_pipeline.decoders.taehv_kernels import sum_taps

        return sum_taps(products.contiguous(), bias, patch_size, shared)
    places = functional.pad(_spread(products, shared)[:, : 9 * len(bias)], (1, 1, 1, 1))
    height, width = places.shape[2] - 2, places.shape[3] - 2
    frames = bias.view(-1, 1, 1).clone()
    for tap, part in enumerate(places.split(len(bias), 1)):
        y, x = divmod(tap, 3)
        frames = frames + part[:, :, y : y + height, x : x + width]
    return functional.pixel_shuffle(frames, patch_size)


def _conv_relu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padding = weight.shape[-1] // 2
    if x.is_cuda:
        return torch.cudnn_convolution_relu(x, weight, bias, (1, 1), (padding, padding), (1, 1), 1)
    return functional.relu(functional.conv2d(x, weight, bias, padding=padding), inplace=True)


def _conv_add_relu(x: Tensor, weight: Tensor, added: Tensor, bias: Tensor | None) -> Tensor:
    if x.is_cuda:
        return torch.cudnn_convolution_add_relu(x, weight, added, 1.0, bias, (1, 1), (1, 1), (1, 1), 1)
    return functional.relu(functional.conv2d(x, weight, bias, padding=1).add_(added), inplace=True)
