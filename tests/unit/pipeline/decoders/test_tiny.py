"""The built-in model: chunks equal the whole decode, sessions are apart, and the shipped weights are worth it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.decoders.tiny import LATENT_LIMIT, TinyDecoder, TinyDecoderNet, open_engine, read_tiny
from framehaul_pipeline.encode.tiny_encoder import TinyEncoder, TinyEncoderNet, load_tiny_encoder
from framehaul_pipeline.models.model import TINY, TINY_SPEC
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import check_starts_anywhere, check_state_bytes, decode, tensor_bytes
from tests.support.live_memory import peak_bytes

CPU = torch.device("cpu")
GEOMETRY = Geometry(channels=16, height=5, width=4)
TOLERANCE = 1e-5
SAMPLE = Path(__file__).parents[4] / "client/framehaul_client/assets/sample.safetensors"


def randomise(net: nn.Module) -> nn.Module:
    """Fill every parameter, also those that start at zero and so hide their block's memory."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.03, generator=generator)
    return net.requires_grad_(False).eval()


@pytest.fixture(scope="module", params=["shipped", "random"])
def decoder(request: pytest.FixtureRequest) -> TinyDecoder:
    if request.param == "shipped":
        return read_tiny(CPU, torch.float32)
    net = randomise(TinyDecoderNet())
    assert isinstance(net, TinyDecoderNet)
    return TinyDecoder(net)


@pytest.fixture(scope="module", params=["shipped", "random"])
def encoder(request: pytest.FixtureRequest) -> TinyEncoder:
    if request.param == "shipped":
        return load_tiny_encoder(CPU, torch.float32)
    net = randomise(TinyEncoderNet())
    assert isinstance(net, TinyEncoderNet)
    return TinyEncoder(net)


def some_latents(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 16, GEOMETRY.height, GEOMETRY.width, generator=torch.Generator().manual_seed(seed))


def test_chunks_give_the_frames_of_the_whole_decode(decoder: TinyDecoder) -> None:
    latents = some_latents(10)
    whole = decode(decoder, latents, 10)
    assert whole.shape == (TINY_SPEC.num_frames(10), 3, 40, 32)
    assert whole.std() > 0.01  # else equality would say nothing
    for chunk in (1, 2, 3, 5):
        torch.testing.assert_close(decode(decoder, latents, chunk), whole, rtol=0, atol=TOLERANCE)


def test_frames_depend_on_earlier_chunks(decoder: TinyDecoder) -> None:
    """Without it the test above would hold for a decoder that forgets."""
    latents = some_latents(4)
    fresh, _ = decoder.step(latents[2:], decoder.open(GEOMETRY, None))
    assert (decode(decoder, latents, 4)[8:] - fresh).abs().max() > 1e-3


def test_interleaved_sessions_are_bit_equal_to_each_alone(decoder: TinyDecoder) -> None:
    clips = [some_latents(4, seed) for seed in (1, 2)]
    states: list[State] = [decoder.open(GEOMETRY, None) for _ in clips]
    frames: list[list[Tensor]] = [[], []]
    for index in range(4):
        for session, clip in enumerate(clips):
            decoded, states[session] = decoder.step(clip[index : index + 1], states[session])
            frames[session].append(decoded)
    for clip, decoded_frames in zip(clips, frames, strict=True):
        assert torch.equal(torch.cat(decoded_frames), decode(decoder, clip, 1))


def test_no_frame_depends_on_a_later_latent(decoder: TinyDecoder) -> None:
    latents = some_latents(6)
    changed = latents.clone()
    changed[3] = -changed[3]
    before, after = decode(decoder, latents, 2), decode(decoder, changed, 2)
    assert torch.equal(before[:12], after[:12])
    assert not torch.allclose(before[12:16], after[12:16], atol=1e-3)


def test_receptive_field_is_what_the_spec_says() -> None:
    """A session resumed so many latents back is exact again, and no fewer do."""
    net = randomise(TinyDecoderNet())
    assert isinstance(net, TinyDecoderNet)
    decoder = TinyDecoder(net.double())
    reach = TINY_SPEC.receptive_latents
    assert reach is not None
    latents = some_latents(8).double()
    changed = latents.clone()
    changed[0] = -changed[0]
    difference = (decode(decoder, latents, 8) - decode(decoder, changed, 8)).abs().amax((1, 2, 3))
    assert (difference[reach * 4 :] == 0).all()
    assert difference[(reach - 1) * 4 : reach * 4].max() > 0


def test_step_leaves_the_given_state_as_it_was(decoder: TinyDecoder) -> None:
    """A decode can be tried again from the same state."""
    latents = some_latents(3)
    _, state = decoder.step(latents[:1], decoder.open(GEOMETRY, None))
    kept = [tensor.clone() for tensor in state]
    first, _ = decoder.step(latents[1:], state)
    assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))
    second, _ = decoder.step(latents[1:], state)
    assert torch.equal(first, second)


def test_state_bytes_are_those_held(decoder: TinyDecoder) -> None:
    """Also after a step of many latents: a state may not keep a whole chunk's activations alive."""
    _, state = decoder.step(some_latents(6), decoder.open(GEOMETRY, None))
    assert decoder.state_bytes(GEOMETRY) == sum(tensor.untyped_storage().nbytes() for tensor in state)


@pytest.mark.parametrize("num_latents", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_workspace_is_the_most_that_a_step_holds(num_latents: int, dtype: torch.dtype) -> None:
    """Of tensors; what a library's convolution takes for itself comes on top."""
    with torch.device("meta"):
        net = TinyDecoderNet().to(dtype).requires_grad_(False)
        latents = torch.zeros(num_latents, 16, 60, 104, dtype=dtype).contiguous(memory_format=torch.channels_last)
    decoder, geometry = TinyDecoder(net), Geometry(channels=16, height=60, width=104)
    state = decoder.open(geometry, None)
    assert peak_bytes(net, latents, lambda given: decoder.step(given, state)) == decoder.workspace_bytes(
        geometry, num_latents
    )


def test_state_bytes_per_pixel_is_that_of_float16() -> None:
    decoder = TinyDecoder(TinyDecoderNet().half())
    pixels = GEOMETRY.height * GEOMETRY.width * 64
    assert decoder.state_bytes(GEOMETRY) == TINY_SPEC.state_bytes_per_pixel * pixels


def test_input_is_clamped(decoder: TinyDecoder) -> None:
    """Latents that no encoder makes give no runaway frames."""
    wild = some_latents(1) * 1e4
    state = decoder.open(GEOMETRY, None)
    clamped = wild.clamp(-LATENT_LIMIT, LATENT_LIMIT)
    assert torch.equal(decoder.step(wild, state)[0], decoder.step(clamped, state)[0])


@pytest.mark.parametrize(
    ("available", "wanted", "ended", "expected"), [(0, 4, False, 0), (3, 8, False, 3), (9, 2, True, 2), (1, 1, True, 1)]
)
def test_next_chunk_takes_what_is_there(available: int, wanted: int, ended: bool, expected: int) -> None:
    decoder = TinyDecoder(TinyDecoderNet())
    for index in (0, 1, 17):
        assert decoder.next_chunk(index, available, wanted, ended=ended) == expected


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_encoder_chunks_give_the_latents_of_the_whole_clip(encoder: TinyEncoder, chunk: int) -> None:
    frames = torch.rand(40, 3, 40, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    whole, _ = encoder.step(frames, encoder.open(40, 32))
    assert whole.shape == (10, 16, 5, 4)
    assert whole.abs().max() < LATENT_LIMIT
    state, parts = encoder.open(40, 32), []
    for part in frames.split(4 * chunk):
        latents, state = encoder.step(part, state)
        parts.append(latents)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=TOLERANCE)


def test_no_latent_depends_on_a_later_frame(encoder: TinyEncoder) -> None:
    frames = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1
    changed = frames.clone()
    changed[8] = -changed[8]
    before, _ = encoder.step(frames, encoder.open(16, 16))
    after, _ = encoder.step(changed, encoder.open(16, 16))
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[2], after[2], atol=1e-3)


def test_sample_clip_survives_another_round_through_the_shipped_weights() -> None:
    """Real footage: the decoded sample, encoded and decoded again, stays above 28 dB; noise or stale weights don't."""
    with safe_open(SAMPLE, "pt") as file:
        latents = file.get_slice("latents")[4:7, :, 6:22, 10:34].float()
    decoder, encoder = read_tiny(CPU, torch.float32), load_tiny_encoder(CPU, torch.float32)
    geometry = Geometry(channels=16, height=16, width=24)
    frames, _ = decoder.step(latents, decoder.open(geometry, None))
    again, _ = encoder.step(frames.clamp(-1, 1), encoder.open(128, 192))
    decoded, _ = decoder.step(again, decoder.open(geometry, None))
    squared_error = ((decoded - frames) / 2).square().mean()
    assert frames.std() > 0.2
    assert -10 * squared_error.log10() > 28


@pytest.mark.parametrize("chunks", [(1, 3, 3, 3, 3, 3), (1, 4, 2, 4, 1, 4), (2,) * 8])
def test_a_decode_that_starts_in_the_middle_gives_the_clips_frames_bit_for_bit(
    decoder: TinyDecoder, chunks: tuple[int, ...]
) -> None:
    """From as many latents back as the spec says, on the same chunk boundaries; the first frames differ."""
    check_starts_anywhere(decoder, some_latents(sum(chunks)), chunks)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (15, 26), (1, 1)])
def test_tiny_says_exactly_what_its_state_holds(height: int, width: int) -> None:
    """At open and after chunks of any size: no activation is kept alive by a slice of it."""
    decoder = load_decoder(TINY, torch.device("cpu"))
    geometry = Geometry(channels=16, height=height, width=width)
    check_state_bytes(decoder, geometry, (1, 3, 2))
    assert tensor_bytes(decoder.open(geometry, None)) == decoder.state_bytes(geometry)


def test_the_fused_form_equals_the_network() -> None:
    """What CUDA runs: its kernels in Triton's interpreter, in float32, for one latent and for several."""
    program = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipeline.decoders.interpreted_tiny"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    assert float(program.stdout) < 1e-5


def test_without_its_kernels_tiny_decodes_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton may be missing; the log says so."""
    monkeypatch.setitem(sys.modules, "framehaul_pipeline.decoders.tiny_engine", None)
    assert open_engine(read_tiny(torch.device("cpu"), torch.float32)._net) is None
