"""What `--model` takes, and what the server makes of it without reading a tensor."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import TINY, TINY_SPEC, Model, describe_model
from framehaul_pipeline.models.wan import parse_wan_config, wan_spec

WAN = {"_class_name": "AutoencoderKLWan", "_diffusers_version": "0.42.1", "base_dim": 8, "attn_scales": []}
FILE_NAME = "diffusion_pytorch_model.safetensors"


def saved(path: Path, config: dict[str, Any]) -> Path:
    """A folder whose weights are whole, and no model's: only their header is looked at."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(3)}, path / FILE_NAME)
    return path


def test_tiny_ships_with_the_package() -> None:
    assert describe_model("tiny") == TINY
    assert (TINY.kind, TINY.spec, TINY.path, TINY.config) == ("tiny", TINY_SPEC, None, {})


@pytest.mark.parametrize("class_name", ["AutoencoderKLWan", "AutoencoderKLQwenImage"])
def test_a_folder_of_diffusers_is_described_by_its_config(tmp_path: Path, class_name: str) -> None:
    """Under the name it is given; and it travels to the worker as it is."""
    path = saved(tmp_path / "vae", {**WAN, "_class_name": class_name})
    model = describe_model(f"farm-1.v2={path}")
    assert (model.kind, model.path, model.sha256) == ("wan", str(path), None)
    assert model.spec == wan_spec("farm-1.v2", parse_wan_config({"base_dim": 8}))
    assert parse_wan_config(model.config) == parse_wan_config({"base_dim": 8})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(model), type=Model).spec == model.spec


def test_a_picture_vae_is_described(tmp_path: Path) -> None:
    path = saved(tmp_path / "vae", {"_class_name": "AutoencoderKL", "latent_channels": 16, "shift_factor": 0.5})
    model = describe_model(f"flux={path}")
    assert (model.kind, model.spec.channels, model.spec.latent_mean) == ("autoencoder-kl", 16, (0.5,) * 16)


def test_the_vae_of_a_pipeline_is_found(tmp_path: Path) -> None:
    """By its model_index.json; a VAE's own folder is taken before that."""
    vae = saved(tmp_path / "vae", WAN)
    (tmp_path / "model_index.json").write_text("{}")
    assert describe_model(f"w={tmp_path}").path == str(vae)
    assert describe_model(f"w={vae}").path == str(vae)


def test_a_file_beside_another_models_config_is_looked_at_alone(tmp_path: Path) -> None:
    """Published folders have the transformer's config.json beside the VAE's file."""
    path = saved(tmp_path / "wan", {"_class_name": "WanModel"})
    with pytest.raises(InvalidInput, match=r"weights=tensors x: must be decoder\.\*, as in a Wan VAE"):
        describe_model(f"w={path / FILE_NAME}")
    with pytest.raises(InvalidInput, match="_class_name=WanModel"):
        describe_model(f"w={path}")


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ~ is the home folder, which shells leave alone behind a =."""
    path = saved(tmp_path / "vae", WAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert describe_model("w=vae").path == describe_model("w=~/vae").path == str(path)


def test_weights_can_be_pinned(tmp_path: Path) -> None:
    path = saved(tmp_path / "vae", WAN)
    digest = hashlib.sha256((path / FILE_NAME).read_bytes()).hexdigest()
    model = describe_model(f"w={path}#sha256={digest}")
    assert (model.path, model.sha256) == (str(path), digest)
    with pytest.raises(InvalidInput, match="model w sha256=ABC: must be 64 hexadecimal digits"):
        describe_model(f"w={path}#sha256=ABC")
    os.rename(path / FILE_NAME, path / "1.safetensors")
    save_file({"y": torch.zeros(3)}, path / "2.safetensors")
    index = {"weight_map": {"x": "1.safetensors", "y": "2.safetensors"}}
    (path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert describe_model(f"w={path}").path == str(path)
    with pytest.raises(InvalidInput, match="must be left out for weights in 2 files"):
        describe_model(f"w={path}#sha256={digest}")


@pytest.mark.parametrize(
    "text", ["", "wan", "=x", "wan=", "a b=x", "-a=x", "ä=x", "a" * 65 + "=x", "tiny=", "w=#sha256=00"]
)
def test_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"must be tiny, or NAME=PATH .* as in wan2\.1="):
        describe_model(text)


def test_what_is_wrong_is_named_with_the_model_and_the_place(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({**WAN, "z_dim": -1}, r"model w: config\.json z_dim=-1: must be a whole number in 1\.\.256 \(in .*vae\)"),
        ({"_class_name": "AutoencoderKLMochi"}, "_class_name=AutoencoderKLMochi: must be one of AutoencoderKLWan, "),
        ({"_class_name": ["x"]}, "_class_name=.*: must be one of"),
        ({}, "_class_name=None"),
    ]
    for number, (config, text) in enumerate(cases):
        path = saved(tmp_path / str(number) / "vae", config)
        with pytest.raises(InvalidInput, match=text):
            describe_model(f"w={path}")
    with pytest.raises(InvalidInput, match=r"model w=/nowhere: must be a folder with config\.json and weights"):
        describe_model("w=/nowhere")
    with pytest.raises(InvalidInput, match=r"none: must be a folder with diffusion_pytorch_model"):
        describe_model(f"w={tmp_path}")
    path = saved(tmp_path / "cut", WAN)
    (path / FILE_NAME).write_bytes((path / FILE_NAME).read_bytes()[:-1])
    with pytest.raises(InvalidInput, match=r"cut off: tensor .x. ends at byte 76, the file at 75"):
        describe_model(f"w={path}")
    with pytest.raises(InvalidInput, match=r"cut off: tensor .x."):
        describe_model(f"w={path / FILE_NAME}")
    lone = tmp_path / "lone.safetensors"
    save_file({"x": torch.zeros(3)}, lone)
    with pytest.raises(InvalidInput, match="as in a Wan VAE"):
        describe_model(f"w={lone}")
