"""Builds decoders out of the diffusers library, with weights that our own reader has checked.

For the worker process alone: imports torch, and diffusers when a model needs it. Nothing is downloaded, nothing is
unpickled, and the encoder never gets memory: the module is built without any and filled with the decoder's tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any, Final

import torch

from framehaul_pipeline.decoders.weights import read_tensors
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.models.safetensors_files import Renaming

_ALIGNMENT: Final = 8
"""Channels of a convolution that matrix units take."""
_ENCODER_PARTS: Final = ("encoder", "quant_conv")
_OLD_NAMES: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Parts of attention blocks as files from before diffusers 0.17 call them. Source:
`ModelMixin._convert_deprecated_attention_blocks` in diffusers 0.42.1."""


def load_vae(
    model: Model, class_name: str, device: torch.device, dtype: torch.dtype, rename: Renaming | None = None
) -> Any:
    """Make the library's module of a model, with its decoder alone: `decoder` and `post_quant_conv`.

    Args:
        model: its `config` holds arguments of the library's constructor.
        class_name: of diffusers' class.
        device: where the decoder will run.
        dtype: of its parameters, but those that the library keeps in float32.
        rename: gives the library's names of a file's own; None: those of an old version may be there.

    Raises:
        InvalidInput: diffusers isn't installed, or the weights are not those of this model.
    """
    try:
        library_class = getattr(import_module("diffusers"), class_name)
    except ImportError as error:
        allowed = "served where the diffusers library is installed: pip install 'framehaul[diffusers]'"
        raise InvalidInput(f"model {model.spec.name}", class_name, allowed) from error
    with torch.device("meta"):
        vae = library_class.from_config(dict(model.config))
    for part in _ENCODER_PARTS:
        setattr(vae, part, None)
    assert model.path is not None, "only tiny ships with the package"
    wanted = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    tensors = read_tensors(model.path, wanted, rename or _rename, sha256=model.sha256)
    # Parts that the library computes in float32, whatever the rest is in.
    exact = set(library_class._keep_in_fp32_modules or ())
    copies = {
        name: tensor.to(device, dtype if exact.isdisjoint(name.split(".")) else torch.float32, copy=True)
        for name, tensor in tensors.items()
    }
    vae.load_state_dict(copies, strict=True, assign=True)
    return vae.requires_grad_(False).eval()


def can_run_engine(config: Mapping[str, Any]) -> bool:
    """Whether `DiffusersEngine` runs a decoder of these arguments of the library's constructor."""
    aligned = all(width % _ALIGNMENT == 0 for width in config["block_out_channels"])
    return aligned and config["act_fn"] in ("silu", "swish")


def decoding_dtype(device: torch.device) -> torch.dtype:
    """What the library's decoders compute in: float16 overflows in several of them."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _rename(names: Collection[str]) -> dict[str, str]:
    return {name: _new_name(name) for name in names}


def _new_name(name: str) -> str:
    if "attentions" not in name.split("."):
        return name
    *path, part, kind = name.split(".")
    return ".".join((*path, _OLD_NAMES.get(part, part), kind))
