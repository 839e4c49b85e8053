"""A lone weights file of a Wan VAE: its numbers from its header, and the authors' names for its tensors."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from framehaul.safetensors import StoredTensor
from framehaul_pipeline.decoders.weights import read_tensors
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.safetensors_files import read_header
from framehaul_pipeline.models.wan import WAN_2_1_MEAN, WAN_2_1_STD, WAN_2_2_MEAN, WAN_2_2_STD, parse_wan_config
from framehaul_pipeline.models.wan_names import infer_wan_config, rename_wan
from tests.support.wan_models import WAN_2_1, WAN_2_2, decoder_tensors, wan

PUBLISHED = {
    "2.1": WAN_2_1,
    "2.2": {**WAN_2_2, "latents_mean": list(WAN_2_2_MEAN), "latents_std": list(WAN_2_2_STD)},
    "2.1 with other depths": {
        **WAN_2_1,
        "dim_mult": [1, 2, 4],
        "num_res_blocks": 1,
        "temperal_downsample": [True, False],
    },
}
MIDDLE = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}


def original_name(name: str, config: dict[str, Any]) -> str:
    """The authors' name of a tensor, worked out from their modules' order rather than from our table."""
    for ours, theirs in (
        ("post_quant_conv.", "conv2."),
        ("quant_conv.", "conv1."),
        ("decoder.conv_in.", "decoder.conv1."),
        ("decoder.norm_out.", "decoder.head.0."),
        ("decoder.conv_out.", "decoder.head.2."),
        ("decoder.mid_block.attentions.0.", "decoder.middle.1."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    if match := re.fullmatch(r"decoder\.mid_block\.resnets\.(\d)\.(\w+)\.(\w+)", name):
        return f"decoder.middle.{2 * int(match[1])}.{MIDDLE[match[2]]}.{match[3]}"
    per_block = config["num_res_blocks"] + 1
    residual = config.get("is_residual", False)
    if match := re.fullmatch(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.(\w+)\.(\w+)", name):
        block, index, part = int(match[1]), int(match[2]), f"{MIDDLE[match[3]]}.{match[4]}"
    elif match := re.fullmatch(
        r"decoder\.up_blocks\.(\d+)\.upsamplers?\.(?:0\.)?((?:resample\.1|time_conv)\.\w+)", name
    ):
        block, index, part = int(match[1]), per_block, match[2]
    else:
        return name
    if residual:
        return f"decoder.upsamples.{block}.upsamples.{index}.{part}"
    return f"decoder.upsamples.{block * (per_block + 1) + index}.{part}"


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize("naming", ["diffusers", "original"])
@pytest.mark.parametrize("which", list(PUBLISHED))
def test_a_file_says_its_numbers_and_its_tensors_arrive_under_diffusers_names(
    tmp_path: Path, which: str, naming: str
) -> None:
    """In either naming, with the encoder beside it as published files have it, each tensor equal to the model's own."""
    given = PUBLISHED[which]
    vae = wan(given)
    tensors = vae.state_dict()
    if naming == "original":
        tensors = {original_name(name, given): tensor for name, tensor in tensors.items()}
        assert "decoder.middle.0.residual.0.gamma" in tensors
        assert not any("up_blocks" in name for name in tensors)
    path = saved(tmp_path / "vae.safetensors", tensors)
    config = infer_wan_config(read_header(path))
    width = given.get("decoder_base_dim", given["base_dim"])
    assert config == parse_wan_config({**given, "base_dim": width})
    wanted = decoder_tensors(vae)
    read = read_tensors(path, {name: tensor.shape for name, tensor in wanted.items()}, rename_wan)
    assert read.keys() == wanted.keys()
    assert all(torch.equal(read[name], wanted[name]) for name in wanted)


def test_mean_and_deviation_are_the_published_ones() -> None:
    """Chosen by the number of latent channels."""
    for given, mean, std in ((WAN_2_1, WAN_2_1_MEAN, WAN_2_1_STD), (WAN_2_2, WAN_2_2_MEAN, WAN_2_2_STD)):
        header = {name: entry(tensor.shape) for name, tensor in wan(given).state_dict().items()}
        config = infer_wan_config(header)
        assert (config.latents_mean, config.latents_std) == (mean, std)


def test_names_that_mean_nothing_stay_as_they_are() -> None:
    """So that whoever reads the file strictly can refuse them."""
    names = ["decoder.middle.0.residual.0.gamma", "decoder.upsamples.0.other.x", "decoder.new", "encoder.conv1.weight"]
    renamed = rename_wan(names)
    assert [renamed[name] for name in names[1:]] == names[1:]
    assert rename_wan(names[1:]) == {name: name for name in names[1:]}


def entry(shape: Sequence[int]) -> StoredTensor:
    return StoredTensor("F32", tuple(shape), offset=0, num_bytes=0)


def header_without(name: str) -> dict[str, StoredTensor]:
    header = {name: entry(tensor.shape) for name, tensor in wan(WAN_2_1).state_dict().items()}
    del header[name]
    return header


def header_without_blocks() -> dict[str, StoredTensor]:
    header = header_without("decoder.conv_in.bias")
    return {name: entry for name, entry in header.items() if ".up_blocks." not in name}


def reshaped(name: str, shape: list[int]) -> dict[str, StoredTensor]:
    return {**header_without(name), name: entry(shape)}


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({}, r"weights=tensors none: must be decoder.\*, as in a Wan VAE"),
        (
            header_without("decoder.conv_in.weight"),
            r"weights decoder.conv_in.weight=shape \[\]: must be there with 5 dimensions, as in a Wan VAE",
        ),
        (header_without("decoder.conv_out.weight"), "decoder.conv_out.weight"),
        (header_without("decoder.up_blocks.1.resnets.0.conv1.weight"), "up_blocks.1.resnets.0.conv1.weight"),
        (header_without_blocks(), "up_blocks.0.resnets.0.conv1.weight"),
        (reshaped("decoder.conv_in.weight", [32, 16]), r"decoder.conv_in.weight=shape \[32, 16\]"),
        (reshaped("decoder.conv_in.weight", [32, 4, 3, 3, 3]), "z_dim=4: must be 16 or 48"),
        (reshaped("decoder.up_blocks.3.resnets.0.conv1.weight", [0, 8, 3, 3, 3]), "up_blocks.3"),
        (reshaped("decoder.conv_out.weight", [4, 8, 3, 3, 3]), "^weights out_channels=4: must be 3 or 12 or 27 or 48"),
    ],
)
def test_what_is_no_wan_vae_is_refused(header: dict[str, StoredTensor], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        infer_wan_config(header)
