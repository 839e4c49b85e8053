"""Which chunks are decoded before the worker is ready."""

import logging

import msgspec
import pytest
import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.worker.warm_up import warm_up
from tests.support.fake_decoder import FAKE_SPEC, FakeDecoder

CPU = torch.device("cpu")
SIZE = (32, 16)
FRAME_BYTES = 32 * 16 * 3


class Noting(FakeDecoder):
    """Notes the shapes of what it decodes, and that each state is used once."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        assert latents.dtype == self.dtype
        self.shapes.append(tuple(latents.shape))
        frames, new = super().step(latents, state)
        state.clear()
        return frames, new


class Pairs(Noting):
    """Takes two latents at a time, once three are there."""

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        return 2 if available > 2 else 0


class AtTheEnd(Noting):
    """Decodes once no more latents come."""

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        return available if ended else 0


def test_without_sizes_one_small_latent_is_decoded() -> None:
    decoder = Noting()
    warm_up([decoder], CPU, [], chunk_latents=4, slot_bytes=1 << 20)
    assert decoder.shapes == [(1, 1, 8, 8)]


def test_a_size_is_decoded_in_the_chunks_that_sessions_get(caplog: pytest.LogCaptureFixture) -> None:
    """A first one, then all lengths up to the fullest that fits a slot: for yuv420p twice as long as for rgb24."""
    decoder = Noting()
    with caplog.at_level(logging.INFO):
        warm_up([decoder], CPU, [SIZE], chunk_latents=4, slot_bytes=4 * FRAME_BYTES)
    assert [shape[0] for shape in decoder.shapes[1:]] == [1, 1, 2, 3, 4]
    assert {shape[1:] for shape in decoder.shapes[1:]} == {(1, 8, 16)}
    assert "warm-up model=fake size=32x16 chunks=1,1,2,3,4 seconds=0." in caplog.text


def test_chunks_are_as_long_as_the_worker_allows() -> None:
    decoder = Noting()
    warm_up([decoder], CPU, [SIZE], chunk_latents=3, slot_bytes=100 * FRAME_BYTES)
    assert [shape[0] for shape in decoder.shapes[1:]] == [1, 1, 2, 3]


def test_every_decoder_warms_up_by_its_own_rule_and_factor() -> None:
    """One that waits for more gets more; one that waits for the end of the clip is not waited for."""
    pairs, at_the_end = Pairs(), AtTheEnd()
    pairs.spec = msgspec.structs.replace(FAKE_SPEC, spatial_factor=4)
    warm_up([pairs, at_the_end], CPU, [SIZE], chunk_latents=4, slot_bytes=100 * FRAME_BYTES)
    assert pairs.shapes == [(2, 1, 8, 8), *5 * [(2, 1, 4, 8)]]
    assert at_the_end.shapes == []
