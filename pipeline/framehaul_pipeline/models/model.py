"""The models that a server serves: which they are, where their weights lie and how their latents become frames.

Imports no torch: the server reads configs and headers, the worker the tensors.
"""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from framehaul.options import file_name
from framehaul.safetensors import StoredTensor
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.autoencoder_kl import autoencoder_kl_spec, parse_autoencoder_kl_config
from framehaul_pipeline.models.hunyuan_video import hunyuan_video_spec, parse_hunyuan_video_config
from framehaul_pipeline.models.hunyuan_video_15 import (
    DIFFUSERS_CLASS,
    ORIGINAL_CLASS,
    hunyuan_video_15_spec,
    infer_hunyuan_video_15_config,
    is_hunyuan_video_15,
    parse_hunyuan_video_15_config,
)
from framehaul_pipeline.models.ltx import LTX_2, LTX_VIDEO, STATISTICS, ltx_spec, parse_ltx_config
from framehaul_pipeline.models.ltx_names import ORIGINAL_STATISTICS, infer_ltx_config, is_ltx
from framehaul_pipeline.models.minimax_h3 import minimax_h3_spec, parse_minimax_h3_config
from framehaul_pipeline.models.safetensors_files import (
    bare_names,
    check_dtype,
    find_weights,
    read_header,
    read_json,
    read_numbers,
)
from framehaul_pipeline.models.taehv import infer_taehv_config, is_taehv, taehv_spec
from framehaul_pipeline.models.wan import parse_wan_config, wan_spec
from framehaul_pipeline.models.wan_names import infer_wan_config
from framehaul_pipeline.spec import DecoderSpec, Exactness

CONFIG_NAME: Final = "config.json"
_DECODER: Final = "decoder."
PIPELINE_NAME: Final = "model_index.json"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_LOADER: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_FORM: Final = "NAME=PATH with a name of letters, digits, '.', '_' and '-', as in wan2.1=/models/Wan2.1/vae"

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


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served; `spec.name` is the name it is served under."""

    kind: str
    """Of the decoder that runs it."""
    spec: DecoderSpec
    loader: str
    imports: tuple[str, ...] = ()
    cuda_imports: tuple[str, ...] = ()
    """See `DecoderKind`."""
    path: str | None = None
    """Absolute path of a folder as diffusers saves it, or of one safetensors file; None: shipped with the package."""
    sha256: str | None = None
    """Of the weights file, in hexadecimal digits; None: not pinned."""
    config: dict[str, Any] = {}
    """Checked values of the model's config.json, under diffusers' names; empty for one without a path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderKind:
    """A kind of decoder: what the server must know of it. It is made without torch; `docs/models.md` has an example."""

    kind: str
    loader: str
    """`MODULE:FUNCTION`, imported by the worker alone: `load(model, device, plans)` gives a `decoders.base.Decoder`."""
    models: tuple[DecoderSpec, ...] = ()
    """Those that `--model` takes by their bare names."""
    class_names: tuple[str, ...] = ()
    """What `_class_name` says in the config.json of a folder that it decodes."""
    parse: Callable[[Mapping[str, Any]], Any] = dict
    """Checks such a config.json; gives what loading needs of it, as a mapping or a msgspec.Struct of plain values."""
    spec: Callable[[str, Any], DecoderSpec] | None = None
    """Describes the model of a name and of what `parse` gave."""
    values: tuple[str, ...] = ()
    """Tensors of the weights, small ones, that `parse` gets as lists of numbers among the config's fields."""
    imports: tuple[str, ...] = ()
    """Modules that loading takes time to import: a standby imports them, and the loader's, before it is needed."""
    cuda_imports: tuple[str, ...] = ()
    """The same, where the device may be a GPU."""

    def __post_init__(self) -> None:
        """Check the form.

        Raises:
            InvalidInput: names the field, its value and what is allowed.
        """
        if not _LOADER.fullmatch(self.loader):
            raise InvalidInput(f"decoder {self.kind} loader", self.loader, "MODULE:FUNCTION")
        if self.class_names and self.spec is None:
            raise InvalidInput(f"decoder {self.kind} spec", None, "a function, to describe models with class names")

    def model(
        self, spec: DecoderSpec, *, path: str | None = None, sha256: str | None = None, config: Mapping[str, Any] = {}
    ) -> Model:
        """A model of this kind."""
        return Model(
            kind=self.kind,
            spec=spec,
            loader=self.loader,
            imports=self.imports,
            cuda_imports=self.cuda_imports,
            path=path,
            sha256=sha256,
            config=dict(config),
        )


_TINY: Final = DecoderKind(kind="tiny", loader="framehaul_pipeline.decoders.tiny:load_tiny", models=(TINY_SPEC,))
_WAN: Final = DecoderKind(
    kind="wan",
    loader="framehaul_pipeline.decoders.wan.decoder:load_wan",
    class_names=("AutoencoderKLWan", "AutoencoderKLQwenImage"),
    parse=parse_wan_config,
    spec=wan_spec,
    cuda_imports=("framehaul_pipeline.decoders.wan.engine", "cudnn"),
)
_TAEHV: Final = DecoderKind(kind="taehv", loader="framehaul_pipeline.decoders.taehv:load_taehv", spec=taehv_spec)
_LTX: Final = DecoderKind(
    kind="ltx",
    loader="framehaul_pipeline.decoders.ltx:load_ltx",
    class_names=(LTX_VIDEO, LTX_2),
    parse=parse_ltx_config,
    spec=ltx_spec,
    values=STATISTICS,
    imports=("diffusers.models.autoencoders.autoencoder_kl_ltx", "diffusers.models.autoencoders.autoencoder_kl_ltx2"),
)
_HUNYUAN_VIDEO_15: Final = DecoderKind(
    kind="hunyuan-video-1.5",
    loader="framehaul_pipeline.decoders.hunyuan_video_15:load_hunyuan_video_15",
    class_names=(DIFFUSERS_CLASS, ORIGINAL_CLASS),
    parse=parse_hunyuan_video_15_config,
    spec=hunyuan_video_15_spec,
    imports=("diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15",),
)
BUILT_IN: Final = (
    _TINY,
    _WAN,
    _TAEHV,
    DecoderKind(
        kind="autoencoder-kl",
        loader="framehaul_pipeline.decoders.autoencoder_kl:load_autoencoder_kl",
        class_names=("AutoencoderKL",),
        parse=parse_autoencoder_kl_config,
        spec=autoencoder_kl_spec,
        imports=("diffusers.models.autoencoders.autoencoder_kl",),
        cuda_imports=("framehaul_pipeline.decoders.diffusers_engine", "cudnn"),
    ),
    DecoderKind(
        kind="hunyuan-video",
        loader="framehaul_pipeline.decoders.hunyuan_video:load_hunyuan_video",
        class_names=("AutoencoderKLHunyuanVideo",),
        parse=parse_hunyuan_video_config,
        spec=hunyuan_video_spec,
        imports=("diffusers.models.autoencoders.autoencoder_kl_hunyuan_video",),
        cuda_imports=("framehaul_pipeline.decoders.diffusers_engine", "cudnn"),
    ),
    DecoderKind(
        kind="minimax-h3",
        loader="framehaul_pipeline.decoders.minimax_h3:load_minimax_h3",
        class_names=("AutoencoderKLMiniMaxH3",),
        parse=parse_minimax_h3_config,
        spec=minimax_h3_spec,
        imports=("diffusers.models.autoencoders.autoencoder_kl_minimax_h3",),
    ),
    _LTX,
    _HUNYUAN_VIDEO_15,
)
TINY: Final = _TINY.model(TINY_SPEC)


def describe_model(text: str, kinds: Sequence[DecoderKind] = BUILT_IN) -> Model:
    """Read what `--model` was told: a bare name, or `NAME=PATH` with `#sha256=HEX` behind it to pin the weights file.

    The path is a folder with safetensors weights, one of its files, or a pipeline's folder with such a folder `vae` in
    it. What the model is stands in the folder's config.json; where there is none, a VAE of Wan, LTX or HunyuanVideo
    1.5 or a decoder of the TAEHV family is told from its tensors' names and shapes. Configs and headers are read and
    checked, and no tensors but a few small ones of LTX.

    Raises:
        InvalidInput: names the field, its value and what is allowed.
    """
    bare = {spec.name: kind.model(spec) for kind in kinds for spec in kind.models}
    if text in bare:
        return bare[text]
    name, equals, place = text.partition("=")
    place, pinned, sha256 = place.partition("#sha256=")
    if not equals or not place or not _NAME.fullmatch(name):
        raise InvalidInput("model", text, f"{', '.join(bare)}, or {_FORM}")
    if pinned and not _SHA256.fullmatch(sha256):
        raise InvalidInput(f"model {name} sha256", sha256, "64 hexadecimal digits in lower case")
    path = Path(os.path.abspath(file_name(place)))
    if not path.exists():
        raise InvalidInput(f"model {name}", path, "a folder with config.json and weights, or a safetensors file")
    try:
        path = _vae_folder(path)
        described = _read_config(path, kinds)
        if described is not None:
            kind, fields = described
            config = kind.parse(fields)
        files = find_weights(path)
        header = _read_headers(files)
        if described is None:
            kind, config = _infer(header, files)
        elif kind.values:
            config = kind.parse(fields | read_numbers(files, kind.values))
        assert kind.spec is not None, "it has class names"
        spec = kind.spec(name, config)
    except InvalidInput as error:
        raise InvalidInput(f"model {name}: {error.field}", error.value, f"{error.allowed} (in {path})") from error
    if pinned and len(files) > 1:
        raise InvalidInput(f"model {name} sha256", sha256, f"left out for weights in {len(files)} files")
    return kind.model(spec, path=str(path), sha256=sha256 or None, config=msgspec.to_builtins(config))


def _infer(header: Mapping[str, StoredTensor], files: tuple[Path, ...]) -> tuple[DecoderKind, Any]:
    """Which kind decodes a model without a config.json, and its config."""
    if is_taehv(header):
        return _TAEHV, infer_taehv_config(header, files[0].name)
    if is_ltx(header):
        numbers = read_numbers(files, ORIGINAL_STATISTICS)
        return _LTX, parse_ltx_config(
            infer_ltx_config(header) | {ORIGINAL_STATISTICS[name]: values for name, values in numbers.items()}
        )
    if is_hunyuan_video_15(header):
        return _HUNYUAN_VIDEO_15, infer_hunyuan_video_15_config(header)
    return _WAN, infer_wan_config(header)


def _read_headers(files: tuple[Path, ...]) -> Mapping[str, StoredTensor]:
    """All tensors of a model by their stored names; of the decoder's also the types are checked."""
    headers = {file: read_header(file) for file in files}
    together = ChainMap(*headers.values())
    bare = bare_names(together)
    for file, header in headers.items():
        for name, tensor in header.items():
            if bare.get(name, "").startswith(_DECODER):
                check_dtype(file, name, tensor)
    return together


def _vae_folder(path: Path) -> Path:
    is_pipeline = (path / PIPELINE_NAME).exists() and not (path / CONFIG_NAME).exists()
    return path / "vae" if is_pipeline else path


def _read_config(path: Path, kinds: Sequence[DecoderKind]) -> tuple[DecoderKind, dict[str, Any]] | None:
    """Which kind decodes a model, and its config; None for one that has no config.json.

    A lone file may lie in a folder with another model's.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / CONFIG_NAME).exists():
        return None
    config = read_json(folder / CONFIG_NAME)
    of_class = {class_name: kind for kind in kinds for class_name in kind.class_names}
    class_name = config.get("_class_name")
    kind = of_class.get(class_name) if isinstance(class_name, str) else None
    if kind is not None:
        return kind, config
    if folder != path:
        return None
    raise InvalidInput(f"{CONFIG_NAME} _class_name", class_name, f"one of {', '.join(of_class)}")
