"""Which chunks are decoded before the worker is ready, and how long those of sessions may be then."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import pytest
import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.worker.warm_up import warm_up
from tests.support.fake_decoder import FAKE_SPEC, FakeDecoder

CPU = torch.device("cpu")
SIZE = (32, 16)
FRAME_BYTES = 32 * 16 * 3


def no_memory_of_its_own() -> None:
    return None


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


class Recorder(Noting):
    """Takes `latent_s` seconds a latent for chunks of each length; `most_latents` of it fit the device's memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, latent_s: Sequence[float], most_latents: int) -> None:
        super().__init__()
        self.latent_s, self.most_latents = latent_s, most_latents
        self.now_s = 0.0
        self.recording = False
        self.recorded: list[tuple[int, int]] = []
        """Latents' widths and how many there are, each once."""
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        self.recording = True
        yield
        self.recording = False

    def forget(self) -> None:
        self.recorded.clear()

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        num_latents = len(latents)
        kind = (latents.shape[3], num_latents)
        if self.recording and kind not in self.recorded:
            if num_latents > self.most_latents:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            self.recorded.append(kind)
        self.now_s += self.latent_s[num_latents - 1] * num_latents
        return super().step(latents, state)

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        return geometry.height * num_latents << 27


class Pairs(Noting):
    """Takes two latents at a time, once three are there."""

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        return 2 if available > 2 else 0


class AtTheEnd(Noting):
    """Decodes once no more latents come."""

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        return available if ended else 0


def warmed(decoder: FakeDecoder, *, sizes: Sequence[tuple[int, int]] = (SIZE,), room: int | None = None) -> list[int]:
    """Up to how many latents chunks of each size have."""
    found = warm_up([decoder], CPU, sizes, chunk_latents=4, slot_bytes=100 * FRAME_BYTES, room_bytes=lambda: room)
    return list(found.values())


def test_without_sizes_one_small_latent_is_decoded() -> None:
    decoder = Noting()
    warm_up([decoder], CPU, [], chunk_latents=4, slot_bytes=1 << 20, room_bytes=no_memory_of_its_own)
    assert decoder.shapes == [(1, 1, 8, 8)]


def test_a_size_is_decoded_in_the_chunks_that_sessions_get(caplog: pytest.LogCaptureFixture) -> None:
    """A first one, then all lengths up to the fullest that fits a slot: for yuv420p twice as long as for rgb24."""
    decoder = Noting()
    with caplog.at_level(logging.INFO):
        warm_up([decoder], CPU, [SIZE], chunk_latents=4, slot_bytes=4 * FRAME_BYTES, room_bytes=no_memory_of_its_own)
    assert [shape[0] for shape in decoder.shapes[1:]] == [1, 4, 3, 2, 1]
    assert {shape[1:] for shape in decoder.shapes[1:]} == {(1, 8, 16)}
    assert "warm-up model=fake size=32x16 chunks=1,4,3,2,1 seconds=0." in caplog.text


def test_chunks_are_as_long_as_the_worker_allows() -> None:
    decoder = Noting()
    warm_up([decoder], CPU, [SIZE], chunk_latents=3, slot_bytes=100 * FRAME_BYTES, room_bytes=no_memory_of_its_own)
    assert [shape[0] for shape in decoder.shapes[1:]] == [1, 3, 2, 1]


def test_every_decoder_warms_up_by_its_own_rule_and_factor() -> None:
    """One that waits for more gets more; one that waits for the end of the clip is not waited for."""
    pairs, at_the_end = Pairs(), AtTheEnd()
    pairs.spec = msgspec.structs.replace(FAKE_SPEC, spatial_factor=4)
    warm_up(
        [pairs, at_the_end], CPU, [SIZE], chunk_latents=4, slot_bytes=100 * FRAME_BYTES, room_bytes=no_memory_of_its_own
    )
    assert pairs.shapes == [(2, 1, 8, 8), *5 * [(2, 1, 4, 8)]]
    assert at_the_end.shapes == []


@pytest.mark.parametrize(
    ("latent_s", "longest"),
    [
        pytest.param([4, 3, 2, 1], 4, id="the longest is the fastest"),
        pytest.param([1, 2, 3, 4], 1, id="the shortest is the fastest"),
        pytest.param([1, 1, 1, 1], 1, id="all are equal"),
        pytest.param([1.02, 1.005, 1, 1.03], 2, id="the second is as fast as the third"),
    ],
)
def test_chunks_are_no_longer_than_makes_them_faster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, latent_s: list[float], longest: int
) -> None:
    """What was prepared to find that out is given back; then the longest is prepared first."""
    decoder = Recorder(monkeypatch, latent_s, 4)
    with caplog.at_level(logging.INFO):
        assert warmed(decoder, room=32 << 30) == [longest]
    assert [length for _, length in decoder.recorded] == [1, *range(longest, 1, -1)]
    rates = ",".join(f"{1 / seconds:.2f}" for seconds in latent_s)
    assert f"warm-up model=fake size=32x16 longest_chunk={longest} latents_per_s={rates}" in caplog.text


@pytest.mark.parametrize(
    ("most_latents", "room_gib", "kept", "line"),
    [
        pytest.param(2, 32, 2, "leaves out chunks of over 2 latents: the device has no memory", id="tried"),
        pytest.param(
            4, 3.5, 3, "leaves out chunks of over 3 latents: a session would need 4.00 GiB of 3.50", id="said"
        ),
        pytest.param(0, 32, 0, "leaves out the size: the device has no memory", id="none, tried"),
        pytest.param(4, 0.5, 0, "leaves out the size: a session would need 1.00 GiB of 0.50", id="none, said"),
    ],
)
def test_what_does_not_fit_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    most_latents: int,
    room_gib: float,
    kept: int,
    line: str,
) -> None:
    """With a line that says so; sessions of a size that has no room for any get the shortest chunks."""
    decoder = Recorder(monkeypatch, [4, 3, 2, 1], most_latents)
    assert warmed(decoder, room=int(room_gib * (1 << 30))) == [max(1, kept)]
    assert [length for _, length in decoder.recorded] == ([1, *range(kept, 1, -1)] if kept else [])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"warm-up model=fake size=32x16 {line}" in caplog.text


def test_what_other_sizes_take_is_left_out_as_well(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each size fits alone and not all do together; large chunks are prepared before small ones."""
    decoder = Recorder(monkeypatch, [4, 3, 2, 1], 4)
    forgotten = 0

    def forget() -> None:
        nonlocal forgotten
        decoder.recorded.clear()
        forgotten += 1
        if forgotten == 2:
            decoder.most_latents = 3

    monkeypatch.setattr(decoder, "forget", forget)
    assert warmed(decoder, sizes=[(16, 16), SIZE], room=32 << 30) == [3, 3]
    assert decoder.recorded == [(16, 1), (16, 3), (16, 2), (8, 1), (8, 3), (8, 2)]
    assert caplog.text.count("leaves out chunks of over 3 latents") == 2


def test_another_error_is_not_taken_for_too_little_memory() -> None:
    class Broken(Noting):
        def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
            if latents.shape[2] > 8:
                raise RuntimeError("an illegal memory access was encountered")
            return super().step(latents, state)

    with pytest.raises(RuntimeError, match="illegal"):
        warmed(Broken(), sizes=[(32, 32)])
