"""The shapes of CLIP and SigLIP, networks that know pictures and texts: read from a Hugging Face folder. No torch.

Source: configuration_clip.py, configuration_siglip.py and configuration_siglip2.py, and the modules beside them, in
huggingface/transformers 5.24.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.config_fields import ConfigFields
from framehaul_pipeline.models.safetensors_files import find_tensors, find_weights, read_json

CLIP: Final = "clip"
SIGLIP2: Final = "siglip2"
_FAMILIES: Final = (CLIP, "siglip", SIGLIP2)
_TOKENIZER: Final = "tokenizer.json"
_WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")
_FOLDER: Final = f"a folder with config.json, {_WEIGHTS[0]}, {_TOKENIZER} and preprocessor_config.json"
_ACTIVATIONS: Final = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
_MOST_SIDE: Final = 512
_MOST_WIDE: Final = 1 << 14
_OLD_EOS: Final = 2
"""What configs said before transformers 4.31, whatever the vocabulary: the end is the token of the highest number."""


class Tower(msgspec.Struct, frozen=True, kw_only=True):
    """A transformer."""

    width: int
    inner: int
    """Width inside each layer's perceptron."""
    layers: int
    heads: int
    activation: str
    epsilon: float
    """Of its normalisations."""


class ClipModel(msgspec.Struct, frozen=True, kw_only=True):
    """A CLIP or a SigLIP."""

    family: str
    vision: Tower
    text: Tower
    patch: int
    """Side of a patch in pixels."""
    grid: int
    """Patches each way."""
    side: int
    """Of a picture in pixels."""
    features: int
    """Numbers that describe a picture or a text."""
    vocabulary: int
    max_tokens: int
    eos_token: int | None
    """Ends a text of CLIP's; None: the token of the highest number does, and SigLIP doesn't ask."""
    pad_token: int
    """Fills a text of SigLIP's up."""
    scale: float
    """Makes 0..255 the numbers that `mean` and `std` are of."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_clip(folder: Path) -> ClipModel:
    """Read and check configs and headers of a folder as transformers saves it; tensors are not read.

    Raises:
        InvalidInput: names the file or the field, its value and what is allowed.
    """
    for name in ("config.json", _TOKENIZER):
        if not (folder / name).is_file():
            raise InvalidInput(name, "missing", _FOLDER)
    model = parse_clip_config(read_json(folder / "config.json"), _processor(folder))
    find_tensors(find_weights(clip_weights(folder)), clip_tensors(model), without_positions)
    return model


def clip_weights(folder: Path) -> Path:
    """The file with the weights, or their index.

    Raises:
        InvalidInput: there is none.
    """
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise InvalidInput(_WEIGHTS[0], "missing", f"{_FOLDER}; save_pretrained writes it, also where there is a pickle")


def without_positions(names: Any) -> dict[str, str]:
    """A file's tensors but for the numbers of the positions, which older ones have."""
    return {name: name for name in names if not name.endswith(".position_ids")}


def parse_clip_config(config: Mapping[str, Any], processor: Mapping[str, Any]) -> ClipModel:
    """Check a config.json, and the image processor's.

    Raises:
        InvalidInput: names the field, its value and what is allowed.
    """
    family = ConfigFields(config).choice("model_type", "", _FAMILIES)
    text_config, vision_config = _part(config, "text_config"), _part(config, "vision_config")
    text, vision = _tower(text_config, family, "text_config"), _tower(vision_config, family, "vision_config")
    texts, pictures = (
        ConfigFields(each, f"config.json {name}")
        for each, name in ((text_config, "text_config"), (vision_config, "vision_config"))
    )
    pictures.choice("num_channels", 3, (3,))
    patch = pictures.whole("patch_size", 32 if family == CLIP else 16, 1, 64)
    if family == SIGLIP2:
        num_patches = pictures.whole("num_patches", 256, 1, 1 << 12)
        grid = math.isqrt(num_patches)
        if grid**2 != num_patches or grid * patch > _MOST_SIDE:
            allowed = f"a square number, of up to {_MOST_SIDE} pixels each way with patch_size"
            raise InvalidInput("config.json vision_config num_patches", num_patches, allowed)
        side = grid * patch
    else:
        side = pictures.whole("image_size", 224, patch, _MOST_SIDE)
        grid = side // patch
    if family == CLIP:
        features = ConfigFields(config).whole("projection_dim", 512, 1, _MOST_WIDE)
    else:
        pictures.choice("vision_use_head", default=True, allowed=(True,))
        features = texts.choice("projection_size", vision.width, (vision.width,))
    vocabulary = texts.whole("vocab_size", 49408 if family == CLIP else 32000, 1, 1 << 24)
    eos_token = texts.whole("eos_token_id", 49407, 0, 1 << 24) if family == CLIP else _OLD_EOS
    scale, mean, std = _normalisation(processor)
    return ClipModel(
        family=family,
        vision=vision,
        text=text,
        patch=patch,
        grid=grid,
        side=side,
        features=features,
        vocabulary=vocabulary,
        max_tokens=texts.whole("max_position_embeddings", 77 if family == CLIP else 64, 2, 4096),
        eos_token=None if eos_token == _OLD_EOS else eos_token,
        pad_token=texts.whole("pad_token_id", 1, 0, vocabulary - 1),
        scale=scale,
        mean=mean,
        std=std,
    )


def clip_tensors(model: ClipModel) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights by their names."""
    text, vision, features = model.text, model.vision, model.features
    patches, patch = model.grid**2, (3, model.patch, model.patch)
    tensors = {
        "text_model.embeddings.token_embedding.weight": (model.vocabulary, text.width),
        "text_model.embeddings.position_embedding.weight": (model.max_tokens, text.width),
        **_layers("text_model", text),
        **_both("text_model.final_layer_norm", text.width),
        **_layers("vision_model", vision),
        **_both("vision_model.post_layernorm", vision.width),
        "vision_model.embeddings.patch_embedding.weight": (vision.width, *patch),
        "vision_model.embeddings.position_embedding.weight": (patches, vision.width),
    }
    if model.family == CLIP:
        return tensors | {
            "vision_model.embeddings.class_embedding": (vision.width,),
            "vision_model.embeddings.position_embedding.weight": (patches + 1, vision.width),
            **_both("vision_model.pre_layrnorm", vision.width),
            "visual_projection.weight": (features, vision.width),
            "text_projection.weight": (features, text.width),
        }
    if model.family == SIGLIP2:
        tensors["vision_model.embeddings.patch_embedding.weight"] = (vision.width, math.prod(patch))
    head = "vision_model.head"
    return tensors | {
        "vision_model.embeddings.patch_embedding.bias": (vision.width,),
        f"{head}.probe": (1, 1, vision.width),
        f"{head}.attention.in_proj_weight": (3 * vision.width, vision.width),
        f"{head}.attention.in_proj_bias": (3 * vision.width,),
        **_both(f"{head}.attention.out_proj", vision.width, vision.width),
        **_both(f"{head}.layernorm", vision.width),
        **_perceptron(head, vision),
        **_both("text_model.head", features, text.width),
    }


def picture_sizes(model: ClipModel) -> tuple[int, ...]:
    """In which a picture that is searched for is looked at: whole, and as small as it may be in a frame."""
    parts = {max(1, round(model.grid * part / 7)) * model.patch for part in (2, 3, 4)}
    return (*sorted(parts - {model.grid * model.patch}), model.side)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The config of a tower; what old files call `_dict` counts for all of it, as in transformers."""
    for key in (f"{name}_dict", name):
        if (part := config.get(key)) is not None:
            if not isinstance(part, dict):
                raise InvalidInput(f"config.json {key}", type(part).__name__, "a JSON object")
            return part
    return {}


def _tower(config: Mapping[str, Any], family: str, name: str) -> Tower:
    fields = ConfigFields(config, f"config.json {name}")
    small = family == CLIP and name == "text_config"
    width = fields.whole("hidden_size", 512 if small else 768, 1, _MOST_WIDE)
    heads = fields.whole("num_attention_heads", 8 if small else 12, 1, 256)
    if width % heads:
        raise InvalidInput(f"config.json {name} hidden_size", width, f"a multiple of num_attention_heads={heads}")
    return Tower(
        width=width,
        inner=fields.whole("intermediate_size", 2048 if small else 3072, 1, _MOST_WIDE << 2),
        layers=fields.whole("num_hidden_layers", 12, 1, 128),
        heads=heads,
        activation=fields.choice("hidden_act", _ACTIVATIONS[0 if family == CLIP else 2], _ACTIVATIONS),
        epsilon=fields.number("layer_norm_eps", 1e-5 if family == CLIP else 1e-6, positive=True),
    )


def _processor(folder: Path) -> Mapping[str, Any]:
    """The image processor's config; transformers 5 saves it within that of all processors."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        processor = read_json(folder / "processor_config.json").get("image_processor")
        if isinstance(processor, dict):
            return processor
    raise InvalidInput("preprocessor_config.json", "missing", _FOLDER)


def _normalisation(processor: Mapping[str, Any]) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    fields = ConfigFields(processor, "preprocessor_config.json")
    scale = fields.number("rescale_factor", 1 / 255, positive=True) if fields.flag("do_rescale", default=True) else 1.0
    if not fields.flag("do_normalize", default=True):
        return scale, (0.0,) * 3, (1.0,) * 3
    return scale, fields.numbers("image_mean", (), 3), fields.numbers("image_std", (), 3, positive=True)


def _layers(name: str, tower: Tower) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {}
    for index in range(tower.layers):
        layer = f"{name}.encoder.layers.{index}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            tensors |= _both(f"{layer}.self_attn.{part}", tower.width, tower.width)
        for part in ("layer_norm1", "layer_norm2"):
            tensors |= _both(f"{layer}.{part}", tower.width)
        tensors |= _perceptron(layer, tower)
    return tensors


def _perceptron(name: str, tower: Tower) -> dict[str, tuple[int, ...]]:
    return _both(f"{name}.mlp.fc1", tower.inner, tower.width) | _both(f"{name}.mlp.fc2", tower.width, tower.inner)


def _both(name: str, *weight: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}
