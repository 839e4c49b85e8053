"""The launcher's own waits, with more chunks launched than there is staging memory."""

import itertools
import struct
from collections.abc import Iterator

import msgspec
import pytest
import torch

from framehaul.formats import LatentDtype
from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.chunks import Chunk, InletSlot
from framehaul_pipeline.worker.jobs import ChunkJob
from framehaul_pipeline.worker.launch import Launcher
from framehaul_pipeline.worker.parking import Place
from tests.support.fake_decoder import FAKE_SPEC, FakeDecoder, expected_levels, fake_opening
from tests.support.simulated_device import SimulatedDevice

NUM_CHUNKS = 5
FRAME_BYTES = 12


@pytest.fixture
def rings() -> Iterator[tuple[Ring, Ring]]:
    ring = Ring.create("framehaul-launch", num_slots=NUM_CHUNKS, slot_bytes=2 * FRAME_BYTES)
    inlet = Ring.create("framehaul-launch-inlet", num_slots=NUM_CHUNKS, slot_bytes=4)
    yield ring, inlet
    ring.close()
    inlet.close()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_streams_wait_for_each_other_whichever_runs_ahead(rings: tuple[Ring, Ring], order: tuple[int, ...]) -> None:
    """Whichever of upload, compute and copy runs as far ahead as it can, every slot gets its own frames."""
    ring, inlet = rings
    device = SimulatedDevice(lambda num_ready: 0)
    launcher = Launcher(device, ring, inlet, chunk_latents=1)
    device.run_first(order)
    launcher.open(place := Place(FakeDecoder(), fake_opening()))
    values = [3, 50, 7, 100, 1]
    for index, value in enumerate(values):
        with inlet.payload(index) as payload:
            payload[:4] = struct.pack("<f", float(value))
        first_frame = FAKE_SPEC.num_frames(index)
        num_frames = FAKE_SPEC.num_frames(index + 1) - first_frame
        chunk = Chunk(1, index, (InletSlot(index, 1),), first_frame, num_frames, last=False)
        launcher.launch(ChunkJob(chunk, place, index, 1))
    launcher.settle()

    levels: list[int] = []
    for index in range(NUM_CHUNKS):
        num_frames = 1 if index == 0 else 2
        with ring.payload(index) as payload:
            content = bytes(payload[: num_frames * FRAME_BYTES])
        for start in range(0, len(content), FRAME_BYTES):
            assert len(set(content[start : start + FRAME_BYTES])) == 1
            levels.append(content[start])
    assert levels == expected_levels(values)
    launcher.close()


def test_normalised_latents_are_scaled_back(rings: tuple[Ring, Ring]) -> None:
    """`normalized * std + mean`, by channel, before the decoder sees them."""
    ring, inlet = rings
    decoder = FakeDecoder()
    decoder.spec = msgspec.structs.replace(FAKE_SPEC, latent_mean=(5.0,), latent_std=(10.0,))
    launcher = Launcher(SimulatedDevice(lambda num_ready: 0), ring, inlet, chunk_latents=1)
    launcher.open(place := Place(decoder, fake_opening(dtype=LatentDtype.FLOAT16, normalized=True)))
    with inlet.payload(0) as payload:
        payload[:2] = struct.pack("<e", 4.0)
    launcher.launch(ChunkJob(Chunk(1, 0, (InletSlot(0, 1),), 0, 1, last=False), place, 0, 1))
    launcher.settle()
    with ring.payload(0) as payload:
        assert payload[0] == 45
    launcher.close()


def test_a_decoder_that_gives_other_frames_than_its_spec_is_caught(rings: tuple[Ring, Ring]) -> None:
    """Frame numbers would be wrong from there on."""
    ring, inlet = rings
    launcher = Launcher(SimulatedDevice(lambda num_ready: 0), ring, inlet, chunk_latents=1)
    launcher.open(place := Place(FakeDecoder(), fake_opening()))
    launcher.launch(ChunkJob(Chunk(1, 0, (InletSlot(0, 1),), 0, 2, last=False), place, 0, 1))
    with pytest.raises(RuntimeError, match=r"gave 1 frames for latents 0\.\.0: must be 2"):
        launcher.settle()
    launcher.close()


def test_a_decoder_gets_latents_in_its_own_dtype(rings: tuple[Ring, Ring]) -> None:
    """Whatever they come in."""
    ring, inlet = rings
    device = SimulatedDevice(lambda num_ready: 0)
    launcher = Launcher(device, ring, inlet, chunk_latents=1)
    given: list[torch.dtype] = []

    class Half(FakeDecoder):
        dtype = torch.bfloat16

        def step(self, latents: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
            given.append(latents.dtype)
            return super().step(latents, state)

    for number, (dtype, form) in enumerate(((LatentDtype.FLOAT32, "<f"), (LatentDtype.FLOAT16, "<e"))):
        launcher.open(place := Place(Half(), fake_opening(dtype=dtype)))
        with inlet.payload(number) as payload:
            payload[: struct.calcsize(form)] = struct.pack(form, 3.0)
        launcher.launch(ChunkJob(Chunk(1, 0, (InletSlot(number, 1),), 0, 1, last=False), place, number, 1))
        launcher.settle()
    assert given == [torch.bfloat16, torch.bfloat16]
    launcher.close()


def test_inlet_memory_of_every_dtype_is_read_as_such() -> None:
    """The dtypes on the wire are those of torch, by name."""
    assert {dtype: getattr(torch, dtype.value).itemsize for dtype in LatentDtype} == {
        dtype: dtype.itemsize_bytes for dtype in LatentDtype
    }
