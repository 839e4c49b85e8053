"""CLIP and SigLIP against transformers' own, with random weights: pictures, parts of them, and texts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from framehaul_pipeline.embedding.clip import ClipEmbedder
from framehaul_pipeline.embedding.embedder import Query
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.highlight.sample import read_picture
from framehaul_pipeline.models.embedding import clip_model
from tests.support.clip_folders import BOS, EOS, PAD, WORDS, processor_config, small_config, write_clip, write_tokenizer
from tests.support.films import png

CPU = torch.device("cpu")
LIBRARY: dict[str, Any] = {
    "clip": (CLIPConfig, CLIPModel),
    "siglip": (SiglipConfig, SiglipModel),
    "siglip2": (Siglip2Config, Siglip2Model),
}
TEXTS = ("a", "red striped can", "photo of a green ring of a can")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def saved(folder: Path, family: str, **text: Any) -> tuple[Any, ClipEmbedder]:
    """The library's random model, and ours out of the folder that it is saved in."""
    config_class, model_class = LIBRARY[family]
    config = small_config(family, **text)
    torch.manual_seed(0)
    library = model_class(config_class(**{key: value for key, value in config.items() if key != "model_type"})).eval()
    for parameter in library.parameters():
        parameter += torch.randn_like(parameter) / 8  # fresh biases and norms would hide what is left out
    library.save_pretrained(folder)
    write_tokenizer(folder, family)
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor_config()}))
    return library, ClipEmbedder(clip_model(folder), CPU)


def frames_of(side: int, count: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8))


def described(library: Any, values: Tensor) -> Tensor:
    """The library's features of pictures."""
    if isinstance(library, Siglip2Model):
        patches = values.unflatten(2, (9, 4)).unflatten(4, (9, 4)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        shapes = torch.tensor([[9, 9]] * len(values))
        mask = torch.ones(patches.shape[:2], dtype=torch.int32)
        found = library.get_image_features(patches, pixel_attention_mask=mask, spatial_shapes=shapes)
    else:
        found = library.get_image_features(values)
    features: Tensor = found.pooler_output
    return features


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("clip", {}),
        ("clip", {"eos_token_id": 2, "hidden_act": "gelu"}),
        ("siglip", {"projection_size": 32}),
        ("siglip2", {}),
    ],
)
def test_pictures_and_texts_are_described_as_by_the_library(tmp_path: Path, family: str, text: dict[str, Any]) -> None:
    """Texts of several lengths; in old configs, the end of a text is its highest token."""
    library, ours = saved(tmp_path, family, **text)
    frames = frames_of(ours.model.side)
    values = ours._vision.values(frames)
    torch.testing.assert_close(ours._vision(values)[0], described(library, values), rtol=1e-5, atol=1e-5)
    for each in TEXTS:
        tokens = [WORDS.index(word) for word in each.split()]
        tokens = [BOS, *tokens, EOS] if family == "clip" else [*tokens, EOS, *[PAD] * (9 - len(tokens))]
        expected = library.get_text_features(torch.tensor([tokens])).pooler_output[0]
        torch.testing.assert_close(ours._text(each), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_parts_are_described_by_the_last_step_on_each_patch_alone(tmp_path: Path, family: str) -> None:
    """CLIP's last layer, where each token attends to itself; SigLIP's pooling, of one patch at a time."""
    library, ours = saved(tmp_path, family)
    frames = frames_of(ours.model.side)
    values = ours._vision.values(frames)
    vision = library.vision_model
    if family == "clip":
        hidden = vision(values, output_hidden_states=True).hidden_states[-2]
        alone = torch.full((82, 82), -torch.inf).fill_diagonal_(0.0)
        hidden = vision.encoder.layers[-1](hidden, alone[None, None])
        patches = library.visual_projection(vision.post_layernorm(hidden))[:, 1:]
    else:
        hidden = vision(values).last_hidden_state
        patches = vision.head(hidden.flatten(0, 1)[:, None]).view(hidden.shape)
    torch.testing.assert_close(ours._vision(values)[1], patches, rtol=1e-5, atol=1e-5)
    maps = functional.adaptive_avg_pool2d(patches.transpose(1, 2).unflatten(2, (9, 9)), 7)
    parts = functional.normalize(functional.avg_pool2d(maps, 3, 1).flatten(2).transpose(1, 2), dim=2)
    whole = functional.normalize(described(library, values), dim=1)
    expected = torch.cat([parts, whole[:, None]], 1)
    torch.testing.assert_close(ours.cells(frames), expected, rtol=1e-4, atol=1e-5)


def test_a_small_picture_lies_on_the_mean_colour(tmp_path: Path) -> None:
    """In the middle, on whole patches, and its own patches describe it; one of the full size fills the frame."""
    ours = ClipEmbedder(clip_model(write_clip(tmp_path)), CPU)
    assert ours.model.picture_sizes == (12, 16, 20, 38)
    mean = torch.tensor([0.48, 0.46, 0.41])
    for size, first, across in ((12, 3, 3), (16, 2, 4), (20, 2, 5), (38, 0, 9)):
        picture = frames_of(size, 1)[0]
        canvas = torch.zeros(1, 38, 38, 3)
        canvas[:] = mean * 255
        canvas[0, first * 4 : first * 4 + size, first * 4 : first * 4 + size] = picture
        maps = ours._vision(ours._vision.values(canvas))[1].unflatten(1, (9, 9))[0]
        expected = functional.normalize(maps[first : first + across, first : first + across].mean((0, 1)), dim=0)
        torch.testing.assert_close(ours.picture(picture), expected, rtol=1e-4, atol=1e-5)


def test_numbers_of_a_picture_are_the_processors(tmp_path: Path) -> None:
    """Of one of the network's size exactly; a larger square one, of hard edges, is scaled by FFmpeg: a level of 255."""
    ours = ClipEmbedder(clip_model(write_clip(tmp_path)), CPU)
    frames = frames_of(38)
    sizes: dict[str, Any] = {"size": {"shortest_edge": 38}, "crop_size": {"height": 38, "width": 38}}
    processor = CLIPImageProcessorPil(**processor_config(), **sizes)
    expected = processor([each.numpy() for each in frames], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours._vision.values(frames), expected, rtol=0, atol=1e-5)
    large = np.kron(frames_of(10, 1)[0].numpy(), np.ones((16, 16, 1), np.uint8))
    scaled = torch.from_numpy(read_picture(png(large), "it", (38,), large.size)[0].copy())
    expected = processor(large, return_tensors="pt")["pixel_values"]
    levels = (
        (ours._vision.values(scaled[None]) - expected).abs() * torch.tensor([0.27, 0.26, 0.28])[:, None, None] * 255
    )
    assert levels.mean() < 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("tokenizer.json", 3),
        ("tokenizer_config.json", 4),
        ("added token", 4),
        ("neither", PAD),
        ("unknown", PAD),
    ],
)
def test_short_texts_of_siglip_are_filled_up(tmp_path: Path, change: str, expected: int) -> None:
    """As the tokenizer's files say, or else the config; capital letters are small ones."""
    write_clip(tmp_path, "siglip")
    if change == "tokenizer.json":
        told = json.loads((tmp_path / change).read_text())
        told["padding"] = {
            "strategy": {"Fixed": 64},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 3,
            "pad_type_id": 0,
            "pad_token": "of",
        }
        told["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
        (tmp_path / change).write_text(json.dumps(told))
    pad_token: Any = {"tokenizer_config.json": "photo", "added token": {"content": "photo"}, "unknown": "none"}.get(
        change
    )
    if pad_token:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad_token}))
    ours = ClipEmbedder(clip_model(tmp_path), CPU)
    assert ours._text._tokens("Red CAN a") == ([5, 1, 0, EOS, *[expected] * 6], 9)


def test_a_text_that_is_too_long_is_refused(tmp_path: Path) -> None:
    ours = ClipEmbedder(clip_model(write_clip(tmp_path)), CPU)
    assert ours.text("red " * 8).isfinite().all()
    with pytest.raises(
        InvalidInput, match=r"open\.text=36 characters, 11 tokens: must be shorter: this model reads 10 tokens"
    ):
        ours.text("red " * 9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": "{}"}, r"tokenizer\.json=.*: must be what the tokenizers library reads"),
        ({"eos_token_id": 7}, r"tokenizer\.json=tokens \[12, 0, 13\] of 'a': must be with eos_token_id=7 at the end"),
        ({"vocab_size": 15}, r"tokenizer\.json=token 15: must be below vocab_size=15"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    content = change.pop("content", None)
    write_clip(tmp_path, **change)
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InvalidInput, match=words):
        ClipEmbedder(clip_model(tmp_path), CPU)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


@pytest.mark.parametrize("kinds", ["text", "pictures", "both"])
def test_frames_are_compared_by_cosines(kinds: str) -> None:
    """Batch by batch: to pictures by their best part, less what all share, to a text as a whole; and where that is."""
    random = torch.Generator().manual_seed(0)
    cells = functional.normalize(torch.randn(7, 26, 8, generator=random), dim=2)
    pictures = functional.normalize(torch.randn(2, 3, 8, generator=random), dim=2)
    text = functional.normalize(torch.randn(8, generator=random), dim=0)
    query = Query(None if kinds == "text" else pictures, None if kinds == "pictures" else text)
    told = torch.empty({"both": 4}.get(kinds, 3), 0)
    for batch in cells.split(3):
        first, found = query.compare(batch)
        told = torch.cat([told[:, :first], found], 1)
    rows = told.numpy()
    parts = cells[:, :25].half().float().numpy()
    expected = []
    if kinds != "text":
        centre = unit(parts).mean((0, 1))
        cosines = np.einsum("ncd,isd->nics", unit(parts - centre), unit(pictures.numpy() - centre))
        expected.append(cosines.max((2, 3)).mean(1))
    if kinds != "pictures":
        expected.append(cells[:, 25].numpy() @ text.numpy())
    np.testing.assert_allclose(rows[:-2], expected, atol=1e-5)
    if kinds == "text":
        best = (cells[:, :25] @ text).argmax(1).numpy()
        np.testing.assert_allclose(rows[-2:], [(best % 5 + 1.5) / 7, (best // 5 + 1.5) / 7], atol=1e-6)
