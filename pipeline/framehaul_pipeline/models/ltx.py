"""The shape of LTX-Video's and LTX-2's decoders, and what one remembers between two chunks. Pure.

Their convolutions look as far ahead as back in time. So each layer's frames come later than its inputs, and the frames
of a latent when some 22 more are there. At the clip's end the layers are ended one after the other, from the first on.

Source: classes AutoencoderKLLTXVideo and AutoencoderKLLTX2Video in huggingface/diffusers 0.42.1, and how their
pipelines undo the normalisation and add noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.config_fields import ConfigFields
from framehaul_pipeline.spec import DecoderSpec, Exactness

LTX_VIDEO: Final = "AutoencoderKLLTXVideo"
LTX_2: Final = "AutoencoderKLLTX2Video"
STATISTICS: Final = ("latents_mean", "latents_std")
"""Tensors of the weights: these models' configs don't have the numbers."""
_MAX_BLOCKS: Final = 8
STRIDES: Final = {"spatiotemporal": (2, 2), "spatial": (1, 2), "temporal": (2, 1)}
"""Of an upsampler: frames, and pixels each way, that it makes of one."""
_STATE_ITEMSIZE_BYTES: Final = 2


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder's stage, in the order of decoding: what takes its width, what makes it larger, and residual blocks."""

    width_before: int
    """Channels that it takes, where its first residual block changes them; else `width` times `factor`."""
    width: int
    factor: int
    """By which upsampling makes channels fewer."""
    stride: tuple[int, int] | None
    """Frames, and pixels each way, that upsampling makes of one; None: it has none."""
    residual: bool
    """Upsampling adds its input, rearranged."""
    layers: int
    noisy: bool


class LtxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that a decoder is built from."""

    library: dict[str, Any]
    """Arguments of the library's constructor, all that matter to the decoder."""
    class_name: str
    latent_channels: int
    width: int
    """Channels of the middle block."""
    middle: Block
    blocks: tuple[Block, ...]
    patch_size: int
    causal: bool
    """Convolutions look back alone."""
    decode_timestep: float | None
    """What the decoder is told of the noise in its latents; None: it isn't."""
    decode_noise_scale: float
    """Of the noise that is added to them."""
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]


class Kept(msgspec.Struct, frozen=True):
    """One thing that a decoder remembers between two chunks."""

    kind: Literal["convolution", "sum", "noise"]
    """The last frames that a convolution has seen; those that wait to be added to later ones; or a session's noise."""
    channels: int
    scale: int
    """Values each way, for one of a latent."""
    num_frames: int
    """That are kept at most."""
    later_by: int
    """Of a convolution: frames of the clip by which its outputs come later than its inputs."""


def parse_ltx_config(config: Mapping[str, Any]) -> LtxConfig:
    """Check a config.json, with what the weights say of the latents.

    Raises:
        InvalidInput: names the field, its value and what is allowed.
    """
    class_name, fields = config["_class_name"], ConfigFields(config)
    is_ltx_2 = class_name == LTX_2
    widths = fields.wholes(
        "decoder_block_out_channels", (256, 512, 1024) if is_ltx_2 else (128, 256, 512, 512), 1, 8192, _MAX_BLOCKS
    )
    num = len(widths)
    layers = fields.wholes(
        "decoder_layers_per_block", (5,) * 4 if is_ltx_2 else (4, 3, 3, 3, 4), 0, 64, _MAX_BLOCKS + 1
    )
    factors = fields.wholes("upsample_factor", (2,) * 3 if is_ltx_2 else (1,) * 4, 1, 8, _MAX_BLOCKS)
    for name, values, length in (("decoder_layers_per_block", layers, num + 1), ("upsample_factor", factors, num)):
        if len(values) != length:
            allowed = f"{length} numbers for decoder_block_out_channels={list(widths)}"
            raise InvalidInput(f"config.json {name}", list(values), allowed)

    def flags(name: str, default: tuple[bool, ...], length: int) -> tuple[bool, ...]:
        if is_ltx_2 and isinstance(config.get(name), bool):
            return (config[name],) * length
        return fields.flags(name, default, length)

    scaled = flags("decoder_spatio_temporal_scaling", (True,) * 3 + (False,) * (not is_ltx_2), num)
    residual = flags("upsample_residual", (is_ltx_2,) * num, num)
    noisy = flags("decoder_inject_noise", (False,) * (num + 1), num + 1)
    # LTX-2's pipeline would add the noise before it undoes the normalisation; no published model of it is told.
    timestep_conditioning = fields.choice("timestep_conditioning", False, (False,) if is_ltx_2 else (False, True))
    library: dict[str, Any] = {
        "out_channels": fields.choice("out_channels", 3, (3,)),
        "latent_channels": fields.whole("latent_channels", 128, 1, 1024),
        "decoder_block_out_channels": list(widths),
        "decoder_layers_per_block": list(layers),
        "decoder_spatio_temporal_scaling": list(scaled),
        "decoder_inject_noise": list(noisy),
        "upsample_residual": list(residual),
        "upsample_factor": list(factors),
        "timestep_conditioning": timestep_conditioning,
        "patch_size": fields.whole("patch_size", 4, 1, 16),
        "patch_size_t": fields.choice("patch_size_t", 1, (1,)),
        "resnet_norm_eps": fields.number("resnet_norm_eps", 1e-6, positive=True),
        "decoder_causal": fields.flag("decoder_causal", default=is_ltx_2),
    }
    strides: list[tuple[int, int]] = [STRIDES["spatiotemporal"]] * num
    if is_ltx_2:
        library["upsample_type"] = types = _upsample_types(config, num)
        library["decoder_spatial_padding_mode"] = fields.choice(
            "decoder_spatial_padding_mode", "reflect", ("reflect", "zeros", "replicate", "circular")
        )
        strides = [STRIDES[each] for each in types]
    channels = library["latent_channels"]
    scaling = fields.number("scaling_factor", 1.0, positive=True)
    std = fields.numbers("latents_std", (1.0,) * channels, channels, positive=True)
    return LtxConfig(
        library=library,
        class_name=class_name,
        latent_channels=channels,
        width=widths[-1],
        middle=Block(
            width_before=widths[-1],
            width=widths[-1],
            factor=1,
            stride=None,
            residual=False,
            layers=layers[-1],
            noisy=noisy[-1],
        ),
        blocks=_blocks(library, strides),
        patch_size=library["patch_size"],
        causal=library["decoder_causal"],
        decode_timestep=fields.number("decode_timestep", 0.05) if timestep_conditioning else None,
        decode_noise_scale=_part(fields, "decode_noise_scale", 0.025) if timestep_conditioning else 0.0,
        latents_mean=fields.numbers("latents_mean", (0.0,) * channels, channels),
        latents_std=tuple(value / scaling for value in std),
    )


def _part(fields: ConfigFields, name: str, default: float) -> float:
    value = fields.number(name, default)
    if not 0 <= value <= 1:
        raise InvalidInput(f"config.json {name}", value, "0..1")
    return value


def _upsample_types(config: Mapping[str, Any], num_blocks: int) -> list[str]:
    """In the order of decoding, unlike all else in the config."""
    types = config.get("upsample_type", ["spatiotemporal"] * 3)
    if not isinstance(types, list | tuple) or len(types) != num_blocks or not {*types} <= STRIDES.keys():
        raise InvalidInput("config.json upsample_type", types, f"{num_blocks} times one of {', '.join(STRIDES)}")
    return list(types)


def _blocks(library: Mapping[str, Any], strides: list[tuple[int, int]]) -> tuple[Block, ...]:
    """In the order of decoding."""
    names = ("decoder_block_out_channels", "upsample_factor", "decoder_spatio_temporal_scaling", "upsample_residual")
    columns = [library[name][::-1] for name in names]
    layers, noisy = library["decoder_layers_per_block"][-2::-1], library["decoder_inject_noise"][-2::-1]
    blocks: list[Block] = []
    before = library["decoder_block_out_channels"][-1]
    for rest, stride, num_layers, is_noisy in zip(zip(*columns, strict=True), strides, layers, noisy, strict=True):
        width, factor, scaled, residual = rest
        block = Block(
            width_before=before // factor,
            width=width // factor,
            factor=factor,
            stride=stride if scaled else None,
            residual=residual,
            layers=num_layers,
            noisy=is_noisy,
        )
        _check_block(block, library)
        blocks.append(block)
        before = block.width
    return tuple(blocks)


def _check_block(block: Block, library: Mapping[str, Any]) -> None:
    changes = block.width_before != block.width
    frames, pixels = block.stride or (1, 1)
    made = frames * pixels**2
    fits = (
        (block.factor == 1 or not changes)
        and (block.factor == 1 or block.stride is not None)
        and made % block.factor == 0
        and (not block.residual or (block.width * block.factor) % made == 0)
        and not (changes and library["timestep_conditioning"])
    )
    if not fits:
        widths, factors = library["decoder_block_out_channels"], library["upsample_factor"]
        allowed = f"channels that fit upsample_factor={factors} and the other fields, as in the published models"
        raise InvalidInput("config.json decoder_block_out_channels", widths, allowed)


def ltx_kept(config: LtxConfig) -> list[Kept]:
    """All that a decoder remembers, in the order of its layers; but the frames of the clip that wait at its end."""
    later_by = math.prod(block.stride[0] for block in config.blocks if block.stride)
    kept, scale = [_convolution(config, config.latent_channels, 1, later_by)], 1
    kept += _residual_blocks(config, config.middle, scale, later_by)
    for block in config.blocks:
        if block.width_before != block.width:
            kept += _residual_block(config, block, block.width_before, scale, later_by)
        if block.stride is not None:
            channels = block.width * block.factor
            kept.append(_convolution(config, channels, scale, later_by))
            if block.residual:
                kept.append(Kept("sum", channels, scale, 0 if config.causal else 1, 0))
            later_by //= block.stride[0]
            scale *= block.stride[1]
        kept += _residual_blocks(config, block, scale, later_by)
    return [*kept, _convolution(config, config.blocks[-1].width, scale, later_by)]


def _convolution(config: LtxConfig, channels: int, scale: int, later_by: int) -> Kept:
    return Kept("convolution", channels, scale, 2, 0 if config.causal else later_by)


def _residual_blocks(config: LtxConfig, block: Block, scale: int, later_by: int) -> Iterator[Kept]:
    for _ in range(block.layers):
        yield from _residual_block(config, block, block.width, scale, later_by)


def _residual_block(config: LtxConfig, block: Block, channels: int, scale: int, later_by: int) -> Iterator[Kept]:
    for inputs in (channels, block.width):
        yield _convolution(config, inputs, scale, later_by)
        if block.noisy:
            yield Kept("noise", 1, scale, 1, 0)
    yield Kept("sum", channels, scale, 0 if config.causal else 2, 0)


def ltx_held_back(config: LtxConfig) -> tuple[int, int]:
    """Latents that frames wait for, and how many frames must wait at the end so that it is whole latents."""
    temporal_factor = math.prod(block.stride[0] for block in config.blocks if block.stride)
    later_by = sum(each.later_by for each in ltx_kept(config))
    lookahead_latents = -(-later_by // temporal_factor)
    return lookahead_latents, lookahead_latents * temporal_factor - later_by


def ltx_spec(name: str, config: LtxConfig) -> DecoderSpec:
    """Describe the decoder to those who don't run it."""
    strides = [block.stride for block in config.blocks if block.stride]
    spatial_factor = config.patch_size * math.prod(pixels for _, pixels in strides)
    lookahead_latents, waiting_frames = ltx_held_back(config)
    elements = sum(each.channels * each.scale**2 * each.num_frames for each in ltx_kept(config))
    return DecoderSpec(
        name=name,
        channels=config.latent_channels,
        spatial_factor=spatial_factor,
        temporal_factor=math.prod(frames for frames, _ in strides),
        first_frames=1,
        lookahead_latents=lookahead_latents,
        drains=lookahead_latents > 0,
        exactness=Exactness.FULL,
        receptive_latents=None,
        state_bytes_per_pixel=_STATE_ITEMSIZE_BYTES * (elements / spatial_factor**2 + 3 * waiting_frames),
        latent_mean=config.latents_mean,
        latent_std=config.latents_std,
    )
