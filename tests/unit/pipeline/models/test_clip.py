"""The shapes of CLIP and SigLIP, against transformers' own, and folders that are none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import CLIPConfig, CLIPModel, Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.clip import clip_tensors, parse_clip_config, picture_sizes
from framehaul_pipeline.models.embedding import clip_model
from tests.support.clip_folders import processor_config, small_config, write_clip

LARGE = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("family", "config_class", "model_class"),
    [
        ("clip", CLIPConfig, CLIPModel),
        ("siglip", SiglipConfig, SiglipModel),
        ("siglip2", Siglip2Config, Siglip2Model),
    ],
)
@pytest.mark.parametrize("given", [{}, {"text_config": LARGE, "vision_config": LARGE}])
def test_shapes_are_the_librarys(family: str, config_class: Any, model_class: Any, given: dict[str, Any]) -> None:
    """What a config leaves out is as there; it says the same when it is written out."""
    with torch.device("meta"):
        library = model_class(config_class(**given))
    shapes = {name: tuple(tensor.shape) for name, tensor in library.state_dict().items() if "logit" not in name}
    ours = parse_clip_config({"model_type": family, **given}, processor_config())
    assert clip_tensors(ours) == shapes
    assert parse_clip_config(library.config.to_dict(), processor_config()) == ours


def test_what_old_configs_say_beside_counts() -> None:
    """As in the library: all of it, and what it leaves out is a default."""
    given = {**small_config("clip"), "text_config_dict": {"hidden_size": 48, "num_attention_heads": 4}}
    library: Any = CLIPConfig(**{key: value for key, value in given.items() if key != "model_type"})
    ours = parse_clip_config(given, processor_config())
    assert (ours.text.width, ours.max_tokens) == (48, 77)
    assert (library.text_config.hidden_size, library.text_config.max_position_embeddings) == (48, 77)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"do_rescale": False}, (1.0, (0.48, 0.46, 0.41))),
        ({"do_normalize": False}, (1 / 255, (0.0, 0.0, 0.0))),
    ],
)
def test_a_processor_may_leave_steps_out(processor: dict[str, Any], expected: tuple[Any, ...]) -> None:
    ours = parse_clip_config(small_config("clip"), {**processor_config(), **processor})
    assert (ours.scale, ours.mean) == expected


def test_pictures_are_looked_at_as_small_as_they_may_be_in_a_frame() -> None:
    """In whole patches; sixteen pictures in all sizes fit a slot, which has 32 frames."""
    for patch, side, expected in ((32, 224, (64, 96, 128, 224)), (16, 224, (64, 96, 128, 224)), (14, 384, None)):
        vision = {**LARGE, "patch_size": patch, "image_size": side}
        sizes = picture_sizes(parse_clip_config({"model_type": "clip", "vision_config": vision}, processor_config()))
        assert sizes == (expected or (112, 168, 210, 384))
        assert 16 * sum(size**2 for size in sizes) <= 32 * side**2
    tiny = {**LARGE, "patch_size": 32, "image_size": 40}
    assert picture_sizes(parse_clip_config({"model_type": "clip", "vision_config": tiny}, processor_config())) == (40,)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def tower(part: str, family: str = "clip", **change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = small_config(family)
        config[part] = {**config[part], **change}
        (folder / "config.json").write_text(json.dumps(config))

    return apply


def config(**change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({**small_config("clip"), **change}))

    return apply


def processor(**change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "preprocessor_config.json").write_text(json.dumps({**processor_config(), **change}))

    return apply


def other_processor(content: dict[str, Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "preprocessor_config.json").unlink()
        (folder / "processor_config.json").write_text(json.dumps(content))

    return apply


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.pre_layrnorm.bias"]
    save_file(tensors, folder / "model.safetensors")


WRONG = {
    "no config": (
        remove("config.json"),
        r"config\.json=missing: must be a folder with config\.json, model\.safetensors",
    ),
    "no tokenizer": (remove("tokenizer.json"), r"tokenizer\.json=missing"),
    "no weights": (remove("model.safetensors"), r"model\.safetensors=missing: .*save_pretrained"),
    "no processor": (remove("preprocessor_config.json"), r"preprocessor_config\.json=missing"),
    "another processor": (other_processor({"image_processor": 1}), r"preprocessor_config\.json=missing"),
    "another model": (config(model_type="blip"), r"config\.json model_type='blip': must be clip or siglip or siglip2"),
    "no object": (config(text_config=[]), r"config\.json text_config=list: must be a JSON object"),
    "heads": (
        tower("vision_config", num_attention_heads=3),
        r"vision_config hidden_size=32: must be a multiple of .*=3",
    ),
    "activation": (tower("text_config", hidden_act="relu"), r"text_config hidden_act='relu': must be quick_gelu or"),
    "colours": (tower("vision_config", num_channels=1), r"vision_config num_channels=1: must be 3"),
    "too large": (tower("vision_config", image_size=1024), r"image_size=1024: must be a whole number in 4\.\.512"),
    "no square": (tower("vision_config", "siglip2", num_patches=80), r"num_patches=80: must be a square number"),
    "square too large": (tower("vision_config", "siglip2", num_patches=4096, patch_size=16), r"num_patches=4096"),
    "no head": (tower("vision_config", "siglip", vision_use_head=False), r"vision_use_head=False: must be True"),
    "sizes differ": (tower("text_config", "siglip", projection_size=24), r"projection_size=24: must be 32"),
    "shape": (config(projection_dim=25), r"text_projection\.weight of shape \[24, 32\]: must be \[25, 32\]"),
    "a tensor more": (tower("vision_config", num_hidden_layers=2), r"tensor vision_model\.encoder\.layers\.2"),
    "a tensor less": (without_a_tensor, r"no tensor vision_model\.pre_layrnorm\.bias"),
    "mean": (
        processor(image_mean=[0.5]),
        r"preprocessor_config\.json image_mean=\[0\.5\]: must be a list of 3 numbers",
    ),
    "deviation": (processor(image_std=[0.5, 0.5, 0]), r"image_std=.*: must be a list of 3 positive numbers"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "good")


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_a_folder_that_is_none_is_refused(
    good: Path, tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    """Before a worker starts; the error names the folder."""
    folder = Path(shutil.copytree(good, tmp_path / "folder"))
    change(folder)
    with pytest.raises(InvalidInput, match=f"highlight_model: .*{words}.*\\(in {folder}\\)"):
        clip_model(folder)


def test_what_files_may_have_beside(good: Path, tmp_path: Path) -> None:
    """Numbers of positions, as older ones do, and shards; the image processor's config within that of all."""
    folder = Path(shutil.copytree(good, tmp_path / "folder"))
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = np.arange(10)[None]
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    shards = {f"model-{part}.safetensors": {name: tensors[name] for name in names[part::2]} for part in (0, 1)}
    for name, part in shards.items():
        save_file(part, folder / name)
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    other_processor({"image_processor": processor_config()})(folder)
    assert clip_model(folder).clip == clip_model(good).clip
