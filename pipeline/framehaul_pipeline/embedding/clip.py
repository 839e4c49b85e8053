"""CLIP and SigLIP out of a Hugging Face folder: pictures on the device, texts layer by layer. Imports torch.

The names are those of the weights; `models.clip` knows their shapes. Parts of a frame are described as the whole is, by
what the last step, which makes one description of all patches, makes of each patch alone. So they can be compared with
texts too, for which the patches of the last layer itself were never trained. Source: Zhou, Loy and Dai, "Extract Free
Dense Labels from CLIP", ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from framehaul_pipeline.config import MAX_BATCH_FRAMES
from framehaul_pipeline.decoders.cuda_graphs import CudaGraphs
from framehaul_pipeline.decoders.weights import read_tensors
from framehaul_pipeline.embedding.embedder import parts_of
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.clip import CLIP, ClipModel, Tower, clip_tensors, clip_weights, without_positions
from framehaul_pipeline.models.embedding import EmbeddingModel
from framehaul_pipeline.models.safetensors_files import read_json

Weight = Callable[[str], Tensor]
"""A tensor by its name, where and in which numbers it is computed with."""
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

_ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}
_GREY: Final = 128


class ClipEmbedder:
    """A CLIP or a SigLIP on a device; as `embedder.Embedder`, and texts as well."""

    def __init__(self, model: EmbeddingModel, device: torch.device) -> None:
        """Load it: the pictures' half onto the device, the texts' half stays in its file, which is mapped.

        Raises:
            InvalidInput: the folder isn't what it should be.
        """
        assert model.clip is not None, "described as one"
        self.model, self._device = model, device
        folder = Path(model.path)
        tensors = read_tensors(clip_weights(folder), clip_tensors(model.clip), without_positions)
        self._text = _TextTower(model.clip, tensors, folder, device)
        self._vision = _VisionTower(model.clip, tensors, device)
        self._graphs = CudaGraphs(device) if device.type == "cuda" else None
        if self._graphs is not None:
            self._record(self._graphs)

    def cells(self, frames: Tensor) -> Tensor:
        """Features `[N, C + 1, D]` of C overlapping parts of frames `[N, H, W, 3] uint8` and of the whole, of length 1.

        Valid until the next call.
        """
        if self._graphs is not None and frames.shape in self._graphs:
            return self._graphs.run(frames.shape, [frames])[0]
        return self._cells([frames])[0]

    @torch.inference_mode()
    def picture(self, picture: Tensor) -> Tensor:
        """Features `[D]` of one picture `[H, W, 3] uint8` of whole patches, of length 1: on the mean colour.

        It lies there as in a frame, so the network only ever sees the size that it was trained with.
        """
        values = self._vision.values(picture[None])
        grid, patch = self._vision.model.grid, self._vision.model.patch
        across = min(grid, picture.shape[0] // patch)
        first = (grid - across) // 2
        before, after = first * patch, self._vision.model.side - picture.shape[0] - first * patch
        _, patches = self._vision(functional.pad(values, (before, after) * 2))
        maps = patches.unflatten(1, (grid, grid))[0, first : first + across, first : first + across]
        return functional.normalize(maps.float().mean((0, 1)), dim=0)

    @torch.inference_mode()
    def text(self, text: str) -> Tensor:
        """Features `[D]` of a text, of length 1.

        Raises:
            InvalidInput: it is too long.
        """
        return functional.normalize(self._text(text), dim=0)

    @torch.inference_mode()
    def _cells(self, frames: Sequence[Tensor]) -> Sequence[Tensor]:
        whole, patches = self._vision(self._vision.values(frames[0]))
        grid = self._vision.model.grid
        parts = parts_of(patches.unflatten(1, (grid, grid)).permute(0, 3, 1, 2))
        return [torch.cat([parts, functional.normalize(whole[:, None].float(), dim=2)], 1)]

    def _record(self, graphs: CudaGraphs) -> None:
        side = self.model.side
        frames = torch.full((MAX_BATCH_FRAMES, side, side, 3), _GREY, dtype=torch.uint8, device=self._device)
        if not self._cells([frames])[0].isfinite().all():
            raise InvalidInput(f"model {self.model.name}", "too large in float16", "one whose features stay finite")
        graphs.record(frames.shape, [frames], self._cells)


class _VisionTower:
    """From pictures `[N, 3, H, W]` to features `[N, D]` of each, and `[N, patches, D]` of its patches alone."""

    def __init__(self, model: ClipModel, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Copy what it needs of `tensors`: in half precision, or on the CPU in single."""
        self.model = model
        self._dtype = torch.float16 if device.type == "cuda" else torch.float32
        self._tensors = {
            name: tensor.to(device, self._dtype)
            for name, tensor in tensors.items()
            if name.startswith(("vision_model.", "visual_projection."))
        }
        patches = self._tensors["vision_model.embeddings.patch_embedding.weight"]
        if patches.ndim == 2:  # rows of pixels, as SigLIP 2 cuts pictures into patches
            patches = patches.unflatten(1, (model.patch, model.patch, 3)).permute(0, 3, 1, 2)
        self._patches = patches.contiguous()
        self._scale = torch.tensor([model.scale / each for each in model.std], device=device)
        self._shift = torch.tensor(
            [-mean / std for mean, std in zip(model.mean, model.std, strict=True)], device=device
        )

    def values(self, pictures: Tensor) -> Tensor:
        """Pictures `[N, H, W, 3] uint8` in the network's numbers: `[N, 3, H, W]`."""
        return (pictures.float() * self._scale + self._shift).to(self._dtype).permute(0, 3, 1, 2).contiguous()

    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor]:
        tower, weight = self.model.vision, self._tensors.__getitem__
        name = "vision_model.embeddings"
        bias = self._tensors.get(f"{name}.patch_embedding.bias")
        x = functional.conv2d(values, self._patches, bias, self.model.patch).flatten(2).transpose(1, 2)
        if self.model.family != CLIP:
            x = _encoder(x + weight(f"{name}.position_embedding.weight"), weight, "vision_model", tower)
            x = _pooled(_norm(x, weight, "vision_model.post_layernorm", tower), weight, tower)
        else:
            x = torch.cat([weight(f"{name}.class_embedding").expand(len(x), 1, -1), x], 1)
            x = _norm(x + weight(f"{name}.position_embedding.weight"), weight, "vision_model.pre_layrnorm", tower)
            x = _encoder(x, weight, "vision_model", tower, last=_class_alone)
            x = _norm(x, weight, "vision_model.post_layernorm", tower)
            x = functional.linear(x, weight("visual_projection.weight"))
        return x[:, 0], x[:, 1:]


class _TextTower:
    """From a text to its features `[D]`, in single precision.

    There is one for each film. So its weights stay in their file, and go to the device layer by layer.
    """

    def __init__(self, model: ClipModel, tensors: Mapping[str, Tensor], folder: Path, device: torch.device) -> None:
        """Keep what it needs of `tensors`."""
        self._model, self._device = model, device
        self._tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("text_")}
        self._tokens = _Tokens(model, folder)

    def __call__(self, text: str) -> Tensor:
        tower, weight = self._model.text, self._weight
        tokens, end = self._tokens(text)
        name = "text_model.embeddings"
        x = self._tensors[f"{name}.token_embedding.weight"][tokens].to(self._device, torch.float32)
        x = (x + weight(f"{name}.position_embedding.weight")[: len(tokens)])[None]
        is_clip = self._model.family == CLIP
        attention = _causal if is_clip else functional.scaled_dot_product_attention
        x = _encoder(x, weight, "text_model", tower, attention, last=attention)[0, end]
        x = _norm(x, weight, "text_model.final_layer_norm", tower)
        if is_clip:
            return functional.linear(x, weight("text_projection.weight"))
        return _linear(x, weight, "text_model.head")

    def _weight(self, name: str) -> Tensor:
        return self._tensors[name].to(self._device, torch.float32)


class _Tokens:
    """Cuts texts into tokens."""

    def __init__(self, model: ClipModel, folder: Path) -> None:
        from tokenizers import Tokenizer  # an extra, only where it is asked for

        self._model = model
        path = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no other class
            raise InvalidInput(str(path), error, "what the tokenizers library reads") from error
        self._pad = self._pad_token(folder)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        tokens = self._tokenizer.encode("a").ids
        highest = max(self._tokenizer.get_vocab().values())
        if highest >= model.vocabulary:
            raise InvalidInput(str(path), f"token {highest}", f"below vocab_size={model.vocabulary} of config.json")
        if model.family == CLIP and model.eos_token is not None and model.eos_token not in tokens:
            raise InvalidInput(str(path), f"tokens {tokens} of 'a'", f"with eos_token_id={model.eos_token} at the end")

    def __call__(self, text: str) -> tuple[list[int], int]:
        """The tokens, and which of them the text is described by.

        Raises:
            InvalidInput: there are more than the network reads.
        """
        model = self._model
        tokens = self._tokenizer.encode(text if model.family == CLIP else text.lower()).ids
        if len(tokens) > model.max_tokens:
            raise InvalidInput(
                "open.text",
                f"{len(text)} characters, {len(tokens)} tokens",
                f"shorter: this model reads {model.max_tokens} tokens",
            )
        if model.family != CLIP:
            return tokens + [self._pad] * (model.max_tokens - len(tokens)), model.max_tokens - 1
        return tokens, tokens.index(max(tokens) if model.eos_token is None else model.eos_token)

    def _pad_token(self, folder: Path) -> int:
        if self._tokenizer.padding is not None:
            return int(self._tokenizer.padding["pad_id"])
        path = folder / "tokenizer_config.json"
        token = read_json(path).get("pad_token") if path.is_file() else None
        if isinstance(token, dict):
            token = token.get("content")
        number = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        return self._model.pad_token if number is None else number


def _encoder(
    x: Tensor,
    weight: Weight,
    name: str,
    tower: Tower,
    attention: Attention = functional.scaled_dot_product_attention,
    *,
    last: Attention = functional.scaled_dot_product_attention,
) -> Tensor:
    """All layers; the last one with an attention of its own."""
    for index in range(tower.layers):
        layer = f"{name}.encoder.layers.{index}"
        y = _norm(x, weight, f"{layer}.layer_norm1", tower)
        heads = (
            _linear(y, weight, f"{layer}.self_attn.{part}_proj").unflatten(2, (tower.heads, -1)).transpose(1, 2)
            for part in "qkv"
        )
        y = (last if index == tower.layers - 1 else attention)(*heads).transpose(1, 2).flatten(2)
        x = x + _linear(y, weight, f"{layer}.self_attn.out_proj")
        x = x + _perceptron(_norm(x, weight, f"{layer}.layer_norm2", tower), weight, layer, tower)
    return x


def _causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def _class_alone(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The class looks at all tokens, each patch at itself alone."""
    whole = functional.scaled_dot_product_attention(query[:, :, :1], key, value)
    return torch.cat([whole, value[:, :, 1:]], 2)


def _pooled(x: Tensor, weight: Weight, tower: Tower) -> Tensor:
    """What SigLIP's probe finds in all patches `[N, T, D]`, and in each alone: `[N, 1 + T, D]`."""
    name = "vision_model.head"
    matrices = weight(f"{name}.attention.in_proj_weight").chunk(3)
    biases = weight(f"{name}.attention.in_proj_bias").chunk(3)
    probe = weight(f"{name}.probe").expand(len(x), -1, -1)
    query, key, value = (
        functional.linear(each, matrix, bias)
        for each, matrix, bias in zip((probe, x, x), matrices, biases, strict=True)
    )
    heads = (each.unflatten(2, (tower.heads, -1)).transpose(1, 2) for each in (query, key, value))
    whole = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    x = _linear(torch.cat([whole, value], 1), weight, f"{name}.attention.out_proj")
    return x + _perceptron(_norm(x, weight, f"{name}.layernorm", tower), weight, name, tower)


def _perceptron(x: Tensor, weight: Weight, name: str, tower: Tower) -> Tensor:
    x = _ACTIVATIONS[tower.activation](_linear(x, weight, f"{name}.mlp.fc1"))
    return _linear(x, weight, f"{name}.mlp.fc2")


def _linear(x: Tensor, weight: Weight, name: str) -> Tensor:
    return functional.linear(x, weight(f"{name}.weight"), weight(f"{name}.bias"))


def _norm(x: Tensor, weight: Weight, name: str, tower: Tower) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weight(f"{name}.weight"), weight(f"{name}.bias"), tower.epsilon)
