"""Small CLIP and SigLIP folders with random weights, as transformers saves them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from framehaul_pipeline.models.clip import clip_tensors, parse_clip_config

WORDS = ("a", "can", "green", "of", "photo", "red", "ring", "striped")
VOCABULARY = 16
BOS, EOS, PAD, UNKNOWN = 12, 13, 14, 15
_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
_MEAN, _STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def small_config(family: str, **text: Any) -> dict[str, Any]:
    """A config.json; `text` changes that of the texts' half."""
    vision: dict[str, Any] = {**_TOWER, "patch_size": 4}
    vision |= {"num_patches": 81} if family == "siglip2" else {"image_size": 38}
    return {
        "model_type": family,
        "projection_dim": 24,
        "vision_config": vision,
        "text_config": {
            **_TOWER,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 10,
            "eos_token_id": EOS,
            "bos_token_id": BOS,
            "pad_token_id": PAD,
            **text,
        },
    }


def processor_config() -> dict[str, Any]:
    return {"image_mean": _MEAN, "image_std": _STD, "rescale_factor": 1 / 255}


def write_tokenizer(folder: Path, family: str) -> None:
    """Each word a token; CLIP's texts begin and end with one of their own, SigLIP's end with it."""
    words = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(
        WordLevel({**words, "<bos>": BOS, "<eos>": EOS, "<pad>": PAD, "<unk>": UNKNOWN}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = Whitespace()
    template = "<bos> $A <eos>" if family == "clip" else "$A <eos>"
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<bos>", BOS), ("<eos>", EOS)])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_clip(folder: Path, family: str = "clip", *, vision: dict[str, Any] | None = None, **text: Any) -> Path:
    """All files of one, without transformers, which takes its time; `vision` stands for the pictures' small half."""
    config = small_config(family, **text)
    if vision is not None:
        config["vision_config"] = vision
    random = np.random.default_rng(0)
    tensors = {
        name: _weights(random, name, shape)
        for name, shape in clip_tensors(parse_clip_config(config, processor_config())).items()
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor_config()))
    write_tokenizer(folder, family)
    save_file(tensors, folder / "model.safetensors")
    return folder


def _weights(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Such that numbers neither grow nor vanish from layer to layer."""
    drawn = random.standard_normal(shape, np.float32)
    if len(shape) > 1:
        return drawn / np.float32(math.sqrt(math.prod(shape[1:])))
    return drawn / np.float32(8) + np.float32("norm" in name and name.endswith("weight"))
