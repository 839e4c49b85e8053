"""HunyuanVideo 1.5's decoder in chunks, against the library's decode of the whole clip: float32, on the CPU."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo15
from safetensors.torch import save_file
from torch import Tensor

from framehaul_pipeline.decoders import hunyuan_video_15
from framehaul_pipeline.decoders.hunyuan_video_15 import HunyuanVideo15Decoder
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.decoders.restarting import RestartingDecoder
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.hunyuan_video_15 import hunyuan_video_15_spec, parse_hunyuan_video_15_config
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.spec import UNTOLD_LATENTS, Geometry
from tests.support.decoder_checks import check_turns, decode, one_thread, tensor_bytes
from tests.support.live_memory import peak_bytes

CPU = torch.device("cpu")
TOLERANCE = 2e-5
GEOMETRY = Geometry(channels=4, height=1, width=3)
NUM_LATENTS = 9
SMALL: dict[str, Any] = {"latent_channels": 4, "block_out_channels": (8, 8, 16, 16, 32), "layers_per_block": 1}
"""Channels are repeated as often as in the published model, and more often at the beginning."""
Loaded = tuple[AutoencoderKLHunyuanVideo15, HunyuanVideo15Decoder]
"""The library's VAE, and ours from its folder."""


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


def make(**changes: Any) -> AutoencoderKLHunyuanVideo15:
    """The library's VAE; what starts as ones is random too."""
    torch.manual_seed(5)
    vae = AutoencoderKLHunyuanVideo15(**{**SMALL, **changes}).eval().requires_grad_(False)
    for name, parameter in vae.named_parameters():
        if name.endswith("gamma"):
            parameter.uniform_(0.5, 1.5)
    return vae


def load(path: Path) -> HunyuanVideo15Decoder:
    decoder = load_decoder(describe_model(f"hunyuan={path}"), CPU)
    assert isinstance(decoder, HunyuanVideo15Decoder)
    return decoder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("hunyuan15")
    vae = make()
    vae.save_pretrained(folder)
    return vae, load(folder)


def clip(num_latents: int, seed: int = 0) -> Tensor:
    shape = (num_latents, 4, GEOMETRY.height, GEOMETRY.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def library_frames(vae: AutoencoderKLHunyuanVideo15, latents: Tensor) -> Tensor:
    """`[F, 3, H, W]`, as the library decodes by default."""
    frames: Tensor = vae.decode(latents.transpose(0, 1)[None]).sample[0].transpose(0, 1)
    return frames


@pytest.fixture(scope="module")
def whole(loaded: Loaded) -> Tensor:
    """The clip's frames, by the library."""
    frames = library_frames(loaded[0], clip(NUM_LATENTS))
    assert frames.std() > 0.1
    return frames


@pytest.mark.parametrize("chunks", [1, 2, 3, 5, NUM_LATENTS, [1, 4, 2, 1, 1]])
def test_chunks_give_the_whole_clips_frames(loaded: Loaded, whole: Tensor, chunks: int | Sequence[int]) -> None:
    _, decoder = loaded
    assert len(whole) == decoder.spec.num_frames(NUM_LATENTS)
    frames = decode(decoder, clip(NUM_LATENTS), chunks, num_latents=NUM_LATENTS)
    torch.testing.assert_close(frames, whole, rtol=0, atol=TOLERANCE)


def test_queries_that_come_in_parts_give_the_same_frames(
    loaded: Loaded, whole: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do in long clips, so that the scores' memory doesn't grow with the clip."""
    monkeypatch.setattr(hunyuan_video_15, "_MAX_SCORES", 30)
    torch.testing.assert_close(decode(loaded[1], clip(NUM_LATENTS), 3), whole, rtol=0, atol=TOLERANCE)


def test_sessions_that_take_turns_and_are_parked_are_bit_equal_to_each_alone(loaded: Loaded) -> None:
    _, decoder = loaded
    check_turns(decoder, [clip(NUM_LATENTS, seed) for seed in (1, 2)])


def test_every_latent_before_a_frame_matters_and_none_after_it(loaded: Loaded) -> None:
    """Through the attention: the convolutions look back a few latents alone."""
    _, decoder = loaded
    frames = decode(decoder, clip(NUM_LATENTS), 1)
    changed = clip(NUM_LATENTS)
    changed[0] += 1.0
    assert (decode(decoder, changed, 1) - frames)[-1].abs().max() > 1e-4
    assert torch.equal(decode(decoder, clip(NUM_LATENTS)[:5], 1), frames[:17])


@torch.inference_mode()
@pytest.mark.parametrize("told", [None, 3, 500])
def test_state_bytes_are_those_held(loaded: Loaded, told: int | None) -> None:
    """Of a clip whose length is told, or of the longest that may be untold; also in the spec, in numbers of 16 bits."""
    _, decoder = loaded
    spec, itemsize = decoder.spec, decoder.dtype.itemsize
    counted = decoder.state_bytes(GEOMETRY) + spec.more_state_bytes(GEOMETRY, told, itemsize)
    _, state = decoder.step(clip(3), decoder.open(GEOMETRY, told))
    assert tensor_bytes(state) == counted
    num_pixels = GEOMETRY.frame_size(spec)[0] * GEOMETRY.frame_size(spec)[1]
    growth = spec.growth_bytes_per_pixel * ((told or UNTOLD_LATENTS) - UNTOLD_LATENTS)
    assert 2 * (spec.state_bytes_per_pixel + growth) * num_pixels == pytest.approx(counted)


@torch.inference_mode()
def test_cold_starts_bound_what_the_attention_remembers(loaded: Loaded) -> None:
    """Each part is a clip of its own, whose state is no larger than its latents need; a start may lie within one."""
    _, decoder = loaded
    cold, latents = RestartingDecoder(decoder, 3, CPU), clip(7)
    parts = torch.cat([decode(decoder, part, len(part)) for part in latents.split(3)])
    frames = decode(cold, latents, 1)
    torch.testing.assert_close(frames, parts, rtol=0, atol=TOLERANCE)
    _, state = cold.step(latents[:1], cold.open(GEOMETRY, None))
    counted = cold.state_bytes(GEOMETRY)
    assert counted - 3 * cold.dtype.itemsize < tensor_bytes(state) <= counted
    num_pixels = GEOMETRY.frame_size(cold.spec)[0] * GEOMETRY.frame_size(cold.spec)[1]
    assert 2 * cold.spec.state_bytes_per_pixel * num_pixels == pytest.approx(counted, rel=0.01)
    later = decode(cold, latents[4:], 1, first_latent=4)
    assert torch.equal(later[cold.spec.num_frames(6) - cold.spec.num_frames(4) :], frames[18:])


def original_name(name: str) -> str:
    """The authors' name of a tensor, from their modules' attributes."""
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    name = re.sub(r"mid_block\.attentions\.0\.(?:to_)?", "mid.attn_1.", name)
    name = re.sub(r"(up|down)_blocks\.(\d)\.resnets", r"\1.\2.block", name)
    return re.sub(r"(up|down)_blocks\.(\d)\.(up|down)samplers\.0", r"\1.\2.\3sample", name)


@pytest.mark.parametrize("prefix", ["", "vae."])
@pytest.mark.parametrize("original", [False, True])
def test_a_single_file_is_its_folder(tmp_path: Path, loaded: Loaded, prefix: str, original: bool) -> None:
    """Under diffusers' names or the authors', within a checkpoint or not, with its encoder."""
    vae, decoder = loaded
    tensors = {original_name(name) if original else name: tensor for name, tensor in vae.state_dict().items()}
    assert ("decoder.mid.attn_1.q.weight" in tensors) is original
    save_file({f"{prefix}{name}": tensor for name, tensor in tensors.items()}, tmp_path / "one.safetensors")
    lone = load(tmp_path / "one.safetensors")
    assert msgspec.structs.replace(lone.spec, name="hunyuan") == decoder.spec
    assert torch.equal(decode(lone, clip(3), 2), decode(decoder, clip(3), 2))


def test_the_authors_folder_is_diffusers(tmp_path: Path, loaded: Loaded) -> None:
    """Its config has another class and other fields' names; a shift of latents is its own."""
    vae, decoder = loaded
    tensors = {original_name(name): tensor for name, tensor in vae.state_dict().items()}
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "AutoencoderKLConv3D", "ffactor_spatial": 16, "ffactor_temporal": 4, **SMALL}
    for shift, mean in ((None, 0.0), (0.25, 0.25)):
        text = json.dumps(config | {"scaling_factor": 1.03682, "shift_factor": shift})
        (tmp_path / "config.json").write_text(text)
        loaded_again = load(tmp_path)
        assert loaded_again.spec == msgspec.structs.replace(decoder.spec, latent_mean=(mean,) * 4)
    assert torch.equal(decode(loaded_again, clip(2), 1), decode(decoder, clip(2), 1))


def test_an_empty_config_is_the_published_model() -> None:
    """The library's defaults; its pipeline divides by the scaling factor. What the attention remembers: 16 bytes a
    pixel and latent, 6.1 MiB at 480x832."""
    spec = hunyuan_video_15_spec("hunyuan", parse_hunyuan_video_15_config({}))
    assert (spec.channels, spec.spatial_factor, [spec.num_frames(n) for n in (1, 2, 31)]) == (32, 16, [1, 5, 121])
    assert (spec.latent_mean, spec.latent_std) == ((0.0,) * 32, (1 / 1.03682,) * 32)
    assert (spec.growth_bytes_per_pixel, spec.state_bytes_per_pixel) == (16.0, 6896.5 + 128 * 16.0)
    assert (spec.receptive_latents, spec.starts_anywhere, spec.lookahead_latents) == (None, False, 0)


@pytest.mark.parametrize("num_latents", [1, 4])
def test_workspace_is_about_the_most_that_a_step_holds(num_latents: int) -> None:
    """At the published widths, in bfloat16, on a device without memory."""
    config = parse_hunyuan_video_15_config({})
    with torch.device("meta"):
        vae = AutoencoderKLHunyuanVideo15().to(torch.bfloat16).eval()
        latents = torch.zeros(num_latents, 32, 30, 52, dtype=torch.bfloat16)
    decoder = HunyuanVideo15Decoder(hunyuan_video_15_spec("hunyuan", config), vae, config, torch.device("meta"))
    decoder.dtype = torch.bfloat16
    geometry = Geometry(channels=32, height=30, width=52)
    _, state = decoder.step(latents, decoder.open(geometry, 40))
    peak = peak_bytes(vae, latents, lambda given: decoder.step(given, state), state)
    assert peak <= decoder.workspace_bytes(geometry, num_latents) <= 1.35 * peak


def test_the_library_decodes_whole_clips_by_default() -> None:
    """Its pipeline's examples turn spatial tiles on, whose frames are others."""
    assert not make().use_tiling


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temporal_compression_ratio": 8}, "config.json temporal_compression_ratio=8: must be 4"),
        ({"spatial_compression_ratio": 8}, "config.json spatial_compression_ratio=8: must be 16"),
        ({"_class_name": "AutoencoderKLConv3D", "ffactor_spatial": 32}, "config.json ffactor_spatial=32: must be 16"),
        ({"upsample_match_channel": False}, "upsample_match_channel=False: must be True"),
        ({"block_out_channels": [128, 256]}, r"block_out_channels=\[128, 256\]: must be 5 numbers that fit"),
        ({"latent_channels": 33}, "block_out_channels=.*: must be 5 numbers that fit latent_channels=33"),
        ({"block_out_channels": [8, 8, 8, 12, 32]}, "block_out_channels=.*: must be 5 numbers that fit"),
        ({"block_out_channels": [8, 16, 48, 32, 32]}, "block_out_channels=.*: must be 5 numbers that fit"),
        ({"scaling_factor": 0}, "scaling_factor=0: must be a positive number"),
    ],
)
def test_a_config_that_is_not_implemented_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    """Field, value and what is allowed."""
    with pytest.raises(InvalidInput, match=message):
        parse_hunyuan_video_15_config(change)


def test_a_file_that_is_not_the_models_is_refused(tmp_path: Path, loaded: Loaded) -> None:
    vae, _ = loaded
    tensors = vae.state_dict() | {"decoder.conv_in.conv.weight": torch.zeros(8)}
    save_file(tensors, tmp_path / "one.safetensors")
    with pytest.raises(InvalidInput, match=r"conv_in.conv.weight=shape \[8\]: must be there with 5 dimensions"):
        describe_model(f"hunyuan={tmp_path / 'one.safetensors'}")
