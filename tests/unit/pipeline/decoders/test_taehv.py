"""The TAEHV family: the published network, in chunks, from each file that it is published in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.decoders.taehv import TaehvDecoder, TaehvNet, tensor_shapes
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.models.taehv import TaehvConfig, taehv_spec
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import check_starts_anywhere, check_state_bytes, decode, one_thread
from tests.support.live_memory import peak_bytes
from tests.support.taehv_models import PUBLISHED, PublishedDecoder, save

CPU = torch.device("cpu")
TOLERANCE = 2e-5
NUM_LATENTS = 12
"""Of MiniMax-H3 there are 5 n + 2."""


def load(path: Path) -> TaehvDecoder:
    decoder = load_decoder(describe_model(f"draft={path}"), CPU)
    assert isinstance(decoder, TaehvDecoder)
    return decoder


@pytest.fixture(scope="module", params=list(PUBLISHED))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TaehvDecoder, Tensor]:
    """A decoder, and frames as its published network gives them, of latents that `clip` gives."""
    path = tmp_path_factory.mktemp("taehv") / f"{request.param}.safetensors"
    net: PublishedDecoder = save(request.param, path)
    decoder = load(path)
    with one_thread():
        return decoder, 2 * net(made(decoder)) - 1


def made(decoder: TaehvDecoder, seed: int = 0) -> Tensor:
    """Latents as a diffusion model makes them."""
    return torch.randn(NUM_LATENTS, decoder.spec.channels, 2, 3, generator=torch.Generator().manual_seed(seed))


def clip(decoder: TaehvDecoder, seed: int = 0) -> Tensor:
    """The same in the scale of the VAE that they are made for."""
    spec, latents = decoder.spec, made(decoder, seed)
    if not spec.latent_std:
        return latents
    return latents * torch.tensor(spec.latent_std).view(-1, 1, 1) + torch.tensor(spec.latent_mean).view(-1, 1, 1)


@one_thread()
@pytest.mark.parametrize("chunks", [[12], [1] * 12, [2] * 6, [3, 5, 1, 3]])
def test_chunks_give_the_published_networks_frames(served: tuple[TaehvDecoder, Tensor], chunks: list[int]) -> None:
    decoder, published = served
    assert len(published) == decoder.spec.num_frames(NUM_LATENTS)
    assert published.std() > 0.1  # else equality would say nothing
    torch.testing.assert_close(decode(decoder, clip(decoder), chunks), published, rtol=0, atol=TOLERANCE)


@one_thread()
@torch.inference_mode()
def test_interleaved_sessions_are_bit_equal_to_each_alone(served: tuple[TaehvDecoder, Tensor]) -> None:
    decoder, _ = served
    clips = [clip(decoder, seed) for seed in (1, 2)]
    geometry = Geometry(channels=decoder.spec.channels, height=2, width=3)
    states = [decoder.open(geometry, None) for _ in clips]
    frames: list[list[Tensor]] = [[], []]
    for index in range(4):
        for session, latents in enumerate(clips):
            decoded, states[session] = decoder.step(latents[index : index + 1], states[session])
            frames[session].append(decoded)
    for latents, decoded_frames in zip(clips, frames, strict=True):
        assert torch.equal(torch.cat(decoded_frames), decode(decoder, latents[:4], 1))


def test_a_decode_starts_anywhere(served: tuple[TaehvDecoder, Tensor]) -> None:
    decoder, _ = served
    check_starts_anywhere(decoder, clip(decoder), (1, 2, 1, 3, 5))


@torch.inference_mode()
def test_step_leaves_the_given_state_as_it_was(served: tuple[TaehvDecoder, Tensor]) -> None:
    """A decode can be tried again from the same state."""
    decoder, _ = served
    latents = clip(decoder)
    _, state = decoder.step(latents[:1], decoder.open(Geometry(channels=latents.shape[1], height=2, width=3), None))
    first, _ = decoder.step(latents[1:3], state)
    second, _ = decoder.step(latents[1:3], state)
    assert torch.equal(first, second)


def test_state_bytes_are_those_held(served: tuple[TaehvDecoder, Tensor]) -> None:
    decoder, _ = served
    check_state_bytes(decoder, Geometry(channels=decoder.spec.channels, height=2, width=3), (1, 3))


@pytest.mark.parametrize("num_latents", [1, 4])
@pytest.mark.parametrize("name", ["taew2_1", "taeltx2_3", "taew2_2_super"])
def test_workspace_is_about_the_most_that_a_step_holds(name: str, num_latents: int) -> None:
    """At the published widths. What a library's convolution takes for itself comes on top."""
    channels, time_factors, patch_size = PUBLISHED[name]
    is_super = name.endswith("_super")
    config = TaehvConfig(
        latent_channels=channels,
        widths=(512, 256, 128, 64) if is_super else (256, 128, 64, 64),
        time_factors=time_factors,
        patch_size=patch_size,
        is_super=is_super,
        latents_mean=(),
        latents_std=(),
    )
    with torch.device("meta"):
        tensors = {name: torch.zeros(shape) for name, shape in tensor_shapes(config).items()}
        latents = torch.zeros(num_latents, channels, 15, 26, dtype=torch.float16)
    net = TaehvNet(config, tensors, torch.device("meta"), torch.float16)
    decoder = TaehvDecoder(taehv_spec(name, config), net, torch.device("meta"), torch.float16)
    geometry = Geometry(channels=channels, height=15, width=26)
    state = decoder.open(geometry, None, first_latent=1)
    peak = peak_bytes(torch.nn.Module(), latents, lambda given: decoder.step(given, state))
    assert peak <= decoder.workspace_bytes(geometry, num_latents) <= 1.3 * peak


def test_the_files_that_are_alike_differ_in_the_scale_of_their_latents(tmp_path: Path) -> None:
    """What the user calls the file decides; the same weights decode a Wan latent and a HunyuanVideo latent."""
    save("taew2_1", tmp_path / "my_taew2_1_fp16.safetensors")
    save("taew2_1", tmp_path / "taehv.safetensors")
    wan, hunyuan = (load(tmp_path / f"{name}.safetensors") for name in ("my_taew2_1_fp16", "taehv"))
    assert wan.spec.latent_mean != hunyuan.spec.latent_mean
    torch.testing.assert_close(decode(wan, clip(wan), 4), decode(hunyuan, clip(hunyuan), 4), rtol=0, atol=TOLERANCE)


def test_weights_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    save("taew2_1", tmp_path / "taew2_1.safetensors")
    tensors = load_file(tmp_path / "taew2_1.safetensors")
    del tensors["decoder.10.conv.2.bias"]
    save_file(tensors, tmp_path / "taew2_1.safetensors")
    with pytest.raises(InvalidInput, match=r"no tensor decoder\.10\.conv\.2\.bias"):
        load(tmp_path / "taew2_1.safetensors")


def test_the_gpus_kernels_equal_plain_torch() -> None:
    program = Path(__file__).with_name("interpreted_taehv.py")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.stdout.splitlines() == ["equal"] * 5, run.stderr
