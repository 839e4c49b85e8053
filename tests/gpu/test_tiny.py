"""The built-in model on a CUDA device: half precision streams as float32 does, and shows what the CPU shows."""

import pytest
import torch

from framehaul_pipeline.decoders.base import Preparing
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.decoders.tiny import read_tiny
from framehaul_pipeline.encode.tiny_encoder import load_tiny_encoder
from framehaul_pipeline.models.model import TINY, TINY_SPEC
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import decode

pytestmark = pytest.mark.needs_cuda

GEOMETRY = Geometry(channels=TINY_SPEC.channels, height=12, width=20)
# Twice what was measured on an H100 at 240x416; frames span [-1, 1].
TOLERANCES = {torch.float16: 2e-3, torch.bfloat16: 1.2e-2}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_chunks_are_near_the_whole_decode(dtype: torch.dtype, chunk: int) -> None:
    decoder = read_tiny(torch.device("cuda"), dtype)
    latents = torch.randn(10, 16, 12, 20, generator=torch.Generator().manual_seed(0)).to("cuda", dtype)
    difference = decode(decoder, latents, chunk) - decode(decoder, latents, 10)
    assert difference.abs().max() <= TOLERANCES[dtype]


def test_device_shows_what_the_cpu_shows() -> None:
    latents = torch.randn(4, 16, 12, 20, generator=torch.Generator().manual_seed(1))
    on_cpu = decode(read_tiny(torch.device("cpu"), torch.float32), latents, 4)
    on_device = decode(read_tiny(torch.device("cuda"), torch.float16), latents.to("cuda", torch.float16), 2)
    assert (on_device.float().cpu() - on_cpu).abs().mean() < 2e-3


def test_encoder_gives_the_cpus_latents() -> None:
    frames = torch.rand(8, 3, 64, 48, generator=torch.Generator().manual_seed(2)) * 2 - 1
    latents = []
    for device, dtype in ((torch.device("cpu"), torch.float32), (torch.device("cuda"), torch.float16)):
        encoder = load_tiny_encoder(device, dtype)
        encoded, _ = encoder.step(frames, encoder.open(64, 48))
        latents.append(encoded.cpu())
    assert (latents[0] - latents[1]).abs().mean() < 5e-3


def test_recorded_chunks_equal_eager_ones_to_the_bit() -> None:
    """Whichever session they come from, and the given state is left as it was."""
    device = torch.device("cuda", 0)
    eager, recorded = load_decoder(TINY, device), load_decoder(TINY, device)
    assert isinstance(recorded, Preparing)
    geometry = Geometry(channels=16, height=16, width=24)
    clips = [torch.randn(3, 16, 16, 24, device=device, dtype=torch.float16) for _ in range(2)]
    with recorded.preparing():
        recorded.step(clips[0], recorded.open(geometry, None))
    for clip in clips:
        states = eager.open(geometry, None), recorded.open(geometry, None)
        for _ in range(2):
            expected, expected_state = eager.step(clip, states[0])
            frames, state = recorded.step(clip, states[1])
            assert torch.equal(frames, expected)
            states = expected_state, state
