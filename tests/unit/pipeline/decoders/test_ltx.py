"""LTX's decoders in chunks, against the library's decode of the whole clip: small random VAEs, float32, on the CPU."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from framehaul_pipeline.decoders.ltx import LtxDecoder
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.models.ltx import ltx_spec, parse_ltx_config
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import advance, check_turns, decode, one_thread, tensor_bytes
from tests.support.live_memory import peak_bytes
from tests.support.ltx_models import LATENT_CHANNELS, PUBLISHED, make, original_tensors

CPU = torch.device("cpu")
TOLERANCE = 2e-5
GEOMETRY = Geometry(channels=LATENT_CHANNELS, height=2, width=3)
NUM_LATENTS = 11
Loaded = tuple[Any, LtxDecoder]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


def load(path: Path) -> LtxDecoder:
    decoder = load_decoder(describe_model(f"ltx={path}"), CPU)
    assert isinstance(decoder, LtxDecoder)
    return decoder


@pytest.fixture(scope="module", params=list(PUBLISHED))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The library's VAE, and ours from its folder."""
    folder = tmp_path_factory.mktemp("ltx")
    vae = make(request.param)
    vae.save_pretrained(folder)
    return vae, load(folder)


def clip(num_latents: int, seed: int = 0) -> Tensor:
    shape = (num_latents, LATENT_CHANNELS, GEOMETRY.height, GEOMETRY.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def library_frames(vae: Any, latents: Tensor, *, timestep: float = 0.05, noise_scale: float = 0.025) -> Tensor:
    """`[F, 3, H, W]`, as the library's pipeline decodes, with a latent's noise by its number and the layers' by 0."""
    noise_of = [torch.Generator().manual_seed(index + 1) for index in range(len(latents))]
    if vae.config.timestep_conditioning:
        noise = torch.stack([torch.randn(latents.shape[1:], generator=each) for each in noise_of])
        latents = (1 - noise_scale) * latents + noise_scale * noise
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frames: Tensor = vae.decode(latents.transpose(0, 1)[None], torch.tensor([timestep])).sample
    return frames[0].transpose(0, 1)


@pytest.mark.parametrize("chunks", [1, 2, 3, 5, [1, 4, 2, 3, 1]])
def test_chunks_give_the_whole_clips_frames(loaded: Loaded, chunks: int | Sequence[int]) -> None:
    vae, decoder = loaded
    expected = library_frames(vae, clip(NUM_LATENTS))
    assert len(expected) == decoder.spec.num_frames(NUM_LATENTS)
    assert expected.std() > 0.1
    frames = decode(decoder, clip(NUM_LATENTS), chunks)
    torch.testing.assert_close(frames, expected, rtol=0, atol=TOLERANCE)
    assert torch.equal(frames, decode(decoder, clip(NUM_LATENTS), chunks))


@pytest.mark.parametrize("num_latents", [1, 2, 7])
def test_clips_shorter_than_the_lookahead(loaded: Loaded, num_latents: int) -> None:
    """All their frames come behind the last latent."""
    vae, decoder = loaded
    expected = library_frames(vae, clip(num_latents))
    torch.testing.assert_close(decode(decoder, clip(num_latents), 2), expected, rtol=0, atol=TOLERANCE)


@torch.inference_mode()
@pytest.mark.parametrize("num_latents", [1, NUM_LATENTS + 5])
def test_each_chunk_gives_what_the_spec_says_and_blanks_a_latents_frames_each(loaded: Loaded, num_latents: int) -> None:
    _, decoder = loaded
    spec, state, num_out = decoder.spec, decoder.open(GEOMETRY, None), 0
    for count, part in enumerate((*clip(num_latents).split(1), *[None] * spec.num_blanks), 1):
        frames, state = advance(decoder, part, state)
        num_out += len(frames)
        assert len(frames) <= spec.temporal_factor
        assert num_out == spec.frames_after(count, ended=False)
    assert num_out == spec.num_frames(num_latents)
    assert decoder.flush(state) is None


def test_sessions_that_take_turns_and_are_parked_are_bit_equal_to_each_alone(loaded: Loaded) -> None:
    _, decoder = loaded
    check_turns(decoder, [clip(NUM_LATENTS, seed) for seed in (1, 2)])


@torch.inference_mode()
def test_state_bytes_are_those_held(loaded: Loaded) -> None:
    """Once the lookahead is full; also in the spec, in numbers of 16 bits."""
    _, decoder = loaded
    state, told = decoder.open(GEOMETRY, None), decoder.state_bytes(GEOMETRY)
    held = []
    for part in (*clip(NUM_LATENTS + 5).split(1), *[None] * decoder.spec.num_blanks):
        _, state = advance(decoder, part, state)
        held.append(tensor_bytes(state))
    height, width = GEOMETRY.frame_size(decoder.spec)
    assert max(held) <= told <= 1.1 * max(held)
    assert 2 * decoder.spec.state_bytes_per_pixel * height * width == pytest.approx(told)


@pytest.mark.parametrize("version", list(PUBLISHED))
def test_a_single_file_is_its_folder(version: str, tmp_path: Path) -> None:
    """Under the authors' names, within a checkpoint or not; what its header doesn't say is as published."""
    vae = make(version)
    vae.save_pretrained(tmp_path / "folder")
    folder = describe_model(f"ltx={tmp_path / 'folder'}")
    for prefix in ("vae.", ""):
        save_file(original_tensors(vae, prefix=prefix), tmp_path / "one.safetensors")
        lone = describe_model(f"ltx={tmp_path / 'one.safetensors'}")
        assert lone.config == folder.config
        assert lone.spec == folder.spec
    frames = decode(load(tmp_path / "one.safetensors"), clip(3), 2)
    assert torch.equal(frames, decode(load(tmp_path / "folder"), clip(3), 2))


def test_a_causal_decoder_waits_for_nothing(tmp_path: Path) -> None:
    """As `decoder_causal` says: its frames come with their latents, and are the library's."""
    vae = make("2", decoder_causal=True)
    vae.save_pretrained(tmp_path)
    decoder = load(tmp_path)
    assert (decoder.spec.lookahead_latents, decoder.spec.num_blanks) == (0, 0)
    frames = decode(decoder, clip(5), [1, 3, 1])
    torch.testing.assert_close(frames, library_frames(vae, clip(5)), rtol=0, atol=TOLERANCE)


def test_the_timestep_and_the_noise_are_the_configs(tmp_path: Path) -> None:
    """Under names of ours: the library's config has none for them."""
    vae = make("0.9.1")
    vae.save_pretrained(tmp_path)
    usual = decode(load(tmp_path), clip(3), 1)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"decode_timestep": 0.3, "decode_noise_scale": 0.0}))
    changed = decode(load(tmp_path), clip(3), 1)
    expected = library_frames(vae, clip(3), timestep=0.3, noise_scale=0.0)
    torch.testing.assert_close(changed, expected, rtol=0, atol=TOLERANCE)
    assert (usual - changed).abs().max() > 0.01


@pytest.mark.parametrize(
    ("class_name", "changes"),
    [
        ("AutoencoderKLLTXVideo", {}),
        ("AutoencoderKLLTX2Video", {"decoder_causal": False}),
        (
            "AutoencoderKLLTX2Video",
            {
                "decoder_block_out_channels": [256, 512, 512, 1024],
                "decoder_layers_per_block": [4, 6, 4, 2, 2],
                "decoder_spatio_temporal_scaling": [True] * 4,
                "upsample_type": ["spatiotemporal", "spatiotemporal", "temporal", "spatial"],
                "upsample_residual": [False] * 4,
                "upsample_factor": [2, 2, 1, 2],
                "decoder_causal": False,
                "decoder_spatial_padding_mode": "zeros",
            },
        ),
    ],
)
def test_workspace_is_about_the_most_that_a_step_holds(class_name: str, changes: dict[str, Any]) -> None:
    """At the published widths, in bfloat16, once the lookahead is full, on a device without memory."""
    config = parse_ltx_config({"_class_name": class_name, **changes})
    with torch.device("meta"):
        vae = getattr(diffusers, class_name).from_config(config.library).to(torch.bfloat16).eval()
        latents = torch.zeros(4, 128, 15, 26, dtype=torch.bfloat16)
    decoder = LtxDecoder(ltx_spec("ltx", config), vae, config, torch.device("meta"))
    decoder.dtype = torch.bfloat16
    geometry = Geometry(channels=128, height=15, width=26)
    state = decoder.open(geometry, None)
    for _ in range(7):
        _, state = decoder.step(latents, state)
    peak = peak_bytes(vae, latents, lambda given: decoder.step(given, state), state)
    assert peak <= decoder.workspace_bytes(geometry, 4) <= 1.35 * peak
