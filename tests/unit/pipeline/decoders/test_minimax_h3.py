"""MiniMax-H3's temporal tiles, against the library's own decode: a small random VAE, float32, on the CPU."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLMiniMaxH3
from torch import Tensor

from framehaul_pipeline.decoders.minimax_h3 import MiniMaxH3Decoder
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.minimax_h3 import PIXEL_MEAN, PIXEL_STD, minimax_h3_spec, parse_minimax_h3_config
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import one_thread, tensor_bytes
from tests.support.live_memory import peak_bytes

SMALL: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": (4, 4, 4, 4, 4, 4),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "decoder_num_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_attention_head_dim": 16,
    "latents_mean": [0.5] * 4,
    "latents_std": [2.0] * 4,
}
GEOMETRY = Geometry(channels=4, height=18, width=3)
"""Two spatial tiles high."""
TOLERANCE = 2e-5
Loaded = tuple[AutoencoderKLMiniMaxH3, MiniMaxH3Decoder]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The library's VAE, and ours from its folder."""
    folder = tmp_path_factory.mktemp("h3")
    torch.manual_seed(5)
    vae = AutoencoderKLMiniMaxH3(**SMALL).eval()
    vae.save_pretrained(folder)
    decoder = load_decoder(describe_model(f"h3={folder}"), torch.device("cpu"))
    assert isinstance(decoder, MiniMaxH3Decoder)
    return vae, decoder


def clip(num_latents: int) -> Tensor:
    shape = (num_latents, 4, GEOMETRY.height, GEOMETRY.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(num_latents))


@torch.inference_mode()
def library_frames(vae: AutoencoderKLMiniMaxH3, latents: Tensor) -> Tensor:
    """`[F, 3, H, W]` in -1..1, as the library's pipeline decodes."""
    frames: Tensor = vae.decode(latents.transpose(0, 1)[None]).sample[0].transpose(0, 1)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return 2 * (frames * std + mean) - 1


@torch.inference_mode()
def our_frames(decoder: MiniMaxH3Decoder, latents: Tensor, wanted: int) -> Tensor:
    """In chunks of up to `wanted` latents; each gives as many frames as the spec says."""
    spec, state = decoder.spec, decoder.open(GEOMETRY, None)
    index, num_out, frames = 0, 0, []
    while index < len(latents):
        count = decoder.next_chunk(index, len(latents) - index, wanted, ended=True)
        part, state = decoder.step(latents[index : index + count], state)
        index += count
        frames.append(part)
        num_out += len(part)
        assert num_out == spec.frames_after(index, ended=False)
    rest = decoder.flush(state)
    assert rest is not None
    return torch.cat([*frames, rest])


@pytest.mark.parametrize("num_latents", [3, 6, 7, 8, 11, 12, 17])
@pytest.mark.parametrize("wanted", [1, 3, 99])
def test_frames_are_the_librarys(loaded: Loaded, num_latents: int, wanted: int) -> None:
    vae, decoder = loaded
    expected = library_frames(vae, clip(num_latents))
    frames = our_frames(decoder, clip(num_latents), wanted)
    assert len(expected) == decoder.spec.num_frames(num_latents)
    assert expected.std() > 0.05
    torch.testing.assert_close(frames, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("num_latents", "num_frames"), [(1, 1), (2, 5)])
def test_a_clip_that_the_library_does_not_decode_is_its_beginning(
    loaded: Loaded, num_latents: int, num_frames: int
) -> None:
    """Filled up with its last latent, as longer ones are."""
    vae, decoder = loaded
    latents = clip(num_latents)
    filled = torch.cat([latents, latents[-1:].expand(7 - num_latents, -1, -1, -1)])
    frames = our_frames(decoder, latents, 9)
    torch.testing.assert_close(frames, library_frames(vae, filled)[:num_frames], rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_state_bytes_are_the_most_that_are_held(loaded: Loaded) -> None:
    _, decoder = loaded
    state, held = decoder.open(GEOMETRY, None), []
    for latent in clip(11).split(1):
        _, state = decoder.step(latent, state)
        held.append(tensor_bytes(state))
    assert max(held) == decoder.state_bytes(GEOMETRY)


def test_workspace_is_about_the_most_that_a_step_holds() -> None:
    """At the published widths, of two layers, on a device without memory."""
    config = parse_minimax_h3_config({"decoder_num_layers": 2})
    spec = minimax_h3_spec("h3", config)
    geometry = Geometry(channels=24, height=30, width=52)
    with torch.device("meta"):
        vae = AutoencoderKLMiniMaxH3.from_config(config).eval()
        latents = torch.zeros(7, 24, 30, 52)
    decoder = MiniMaxH3Decoder(spec, vae, 2048, torch.device("meta"))
    state = decoder.open(geometry, None)
    peak = peak_bytes(vae, latents, lambda given: decoder.step(given, state))
    assert peak <= decoder.workspace_bytes(geometry, 7) <= 1.5 * peak


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"clip_length": 18}, "clip_length=18: must be 17"),
        ({"token_drop": 0}, "token_drop=0: must be 3"),
        ({"temporal_downsample_factors": [1, 2, 1]}, r"temporal_downsample_factors=\[1, 2, 1\]: must be factors of 4"),
        ({"decoder_rope_dim_ratio": 0.5}, "decoder_rope_dim_ratio=0.5"),
        ({"latents_std": [1.0]}, "latents_std"),
    ],
)
def test_configs_that_are_not_the_models_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        parse_minimax_h3_config(changes)
