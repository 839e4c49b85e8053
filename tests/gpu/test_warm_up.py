"""Warming up on a real device that has too little memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from framehaul_pipeline.decoders.tiny import TinyDecoder, read_tiny
from framehaul_pipeline.models.model import TINY_SPEC
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.worker.warm_up import warm_up
from tests.support.decoder_checks import decode

pytestmark = pytest.mark.needs_cuda

CUDA = torch.device("cuda", 0)
SIZE = (832, 480)
GEOMETRY = Geometry(channels=TINY_SPEC.channels, height=60, width=104)
ROOM_BYTES = 32 << 30


@pytest.fixture
def tiny() -> Iterator[TinyDecoder]:
    torch.cuda.empty_cache()
    yield read_tiny(CUDA, torch.float16)
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_a_device_with_too_little_memory_warms_up_shorter_chunks(
    tiny: TinyDecoder, caplog: pytest.LogCaptureFixture
) -> None:
    """Decoding goes on, and its frames are those of a decoder that never tried."""
    latents = torch.randn(8, 16, 60, 104, generator=torch.Generator().manual_seed(0)).to(CUDA, torch.float16)
    expected = decode(tiny, latents, 2)
    torch.cuda.empty_cache()
    needed = torch.cuda.memory_reserved() + 2 * tiny.workspace_bytes(GEOMETRY, 8)
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(needed / total)
    with caplog.at_level(logging.INFO):
        found = warm_up([tiny], CUDA, [SIZE], chunk_latents=64, slot_bytes=1 << 30, room_bytes=lambda: ROOM_BYTES)
    assert 1 <= found["tiny", GEOMETRY] < 64
    assert "leaves out chunks of over" in caplog.text
    assert torch.equal(decode(tiny, latents, 2), expected)
