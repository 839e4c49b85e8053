"""The models that a server serves: which they are, where their weights lie and how their latents become frames.

Imports no torch: the server reads configs and headers, the worker the tensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

import msgspec

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.autoencoder_kl import autoencoder_kl_spec, parse_autoencoder_kl_config
from framehaul_pipeline.models.hunyuan_video import hunyuan_video_spec, parse_hunyuan_video_config
from framehaul_pipeline.models.safetensors_files import find_weights, read_header, read_json
from framehaul_pipeline.models.wan import WanConfig, parse_wan_config, wan_spec
from framehaul_pipeline.models.wan_names import infer_wan_config
from framehaul_pipeline.spec import DecoderSpec, Exactness

CONFIG_NAME: Final = "config.json"
PIPELINE_NAME: Final = "model_index.json"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FORM: Final = "tiny, or NAME=PATH with a name of letters, digits, '.', '_' and '-', as in wan2.1=/models/Wan2.1/vae"

TINY_SPEC: Final = DecoderSpec(
    name="tiny",
    channels=16,
    spatial_factor=8,
    temporal_factor=4,
    first_frames=4,
    lookahead_latents=0,
    exactness=Exactness.FULL,
    receptive_latents=5,
    state_bytes_per_pixel=138.0,
)


class ModelKind(str, Enum):
    """Which decoder runs a model."""

    TINY = "tiny"
    WAN = "wan"
    AUTOENCODER_KL = "autoencoder-kl"
    HUNYUAN_VIDEO = "hunyuan-video"


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served; `spec.name` is the name it is served under."""

    kind: ModelKind
    spec: DecoderSpec
    path: str | None = None
    """Absolute path of a folder as diffusers saves it, or of one safetensors file; None: shipped with the package."""
    sha256: str | None = None
    """Of the weights file, in hexadecimal digits; None: not pinned."""
    config: dict[str, Any] = {}
    """Checked values of the model's config.json, under diffusers' names; empty for `tiny`."""


TINY: Final = Model(kind=ModelKind.TINY, spec=TINY_SPEC)

Described = tuple[ModelKind, dict[str, Any], DecoderSpec]


def describe_model(text: str) -> Model:
    """Read what `--model` was told: `tiny`, or `NAME=PATH` with `#sha256=HEX` behind it to pin the weights file.

    The path is a folder with config.json and safetensors weights, a pipeline's folder with such a folder `vae` in it,
    or a lone safetensors file of a Wan VAE. Configs and headers are read and checked, tensors are not.

    Raises:
        InvalidInput: names the field, its value and what is allowed.
    """
    if text == TINY_SPEC.name:
        return TINY
    name, equals, place = text.partition("=")
    place, pinned, sha256 = place.partition("#sha256=")
    if not equals or not place or not _NAME.fullmatch(name):
        raise InvalidInput("model", text, _FORM)
    if pinned and not _SHA256.fullmatch(sha256):
        raise InvalidInput(f"model {name} sha256", sha256, "64 hexadecimal digits in lower case")
    path = Path(os.path.abspath(os.path.expanduser(place)))
    if not path.exists():
        raise InvalidInput(f"model {name}", path, "a folder with config.json and weights, or a safetensors file")
    try:
        path = _vae_folder(path)
        kind, config, spec = _describe_folder(name, path) if path.is_dir() else _describe_file(name, path)
        files = find_weights(path)
        for file in files:
            read_header(file)
    except InvalidInput as error:
        raise InvalidInput(f"model {name}: {error.field}", error.value, f"{error.allowed} (in {path})") from error
    if pinned and len(files) > 1:
        raise InvalidInput(f"model {name} sha256", sha256, f"left out for weights in {len(files)} files")
    return Model(kind=kind, spec=spec, path=str(path), sha256=sha256 or None, config=config)


def _vae_folder(path: Path) -> Path:
    is_pipeline = (path / PIPELINE_NAME).exists() and not (path / CONFIG_NAME).exists()
    return path / "vae" if is_pipeline else path


def _describe_folder(name: str, path: Path) -> Described:
    config = read_json(path / CONFIG_NAME)
    class_name = config.get("_class_name")
    describe = _CLASSES.get(class_name) if isinstance(class_name, str) else None
    if describe is None:
        raise InvalidInput(f"{CONFIG_NAME} _class_name", class_name, f"one of {', '.join(_CLASSES)}")
    return describe(name, config)


def _describe_file(name: str, path: Path) -> Described:
    (file,) = find_weights(path)
    return _wan(name, infer_wan_config(read_header(file)))


def _describe_wan(name: str, config: Mapping[str, Any]) -> Described:
    return _wan(name, parse_wan_config(config))


def _wan(name: str, config: WanConfig) -> Described:
    return ModelKind.WAN, msgspec.to_builtins(config), wan_spec(name, config)


def _describe_autoencoder_kl(name: str, config: Mapping[str, Any]) -> Described:
    parsed = parse_autoencoder_kl_config(config)
    return ModelKind.AUTOENCODER_KL, parsed, autoencoder_kl_spec(name, parsed)


def _describe_hunyuan_video(name: str, config: Mapping[str, Any]) -> Described:
    parsed = parse_hunyuan_video_config(config)
    return ModelKind.HUNYUAN_VIDEO, parsed, hunyuan_video_spec(name, parsed)


_CLASSES: Final[Mapping[str, Callable[[str, Mapping[str, Any]], Described]]] = {
    "AutoencoderKLWan": _describe_wan,
    "AutoencoderKLQwenImage": _describe_wan,
    "AutoencoderKL": _describe_autoencoder_kl,
    "AutoencoderKLHunyuanVideo": _describe_hunyuan_video,
}
"""How each class of diffusers' is described."""
