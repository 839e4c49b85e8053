"""What only a GPU can show: registered memory, streams that really run late, parity with the CPU."""

import itertools
import struct
from collections.abc import Callable

import msgspec
import pytest
import torch
from torch import Tensor

from framehaul.formats import LatentDtype, PixelFormat
from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.tiny import read_tiny
from framehaul_pipeline.device.convert import convert, convert_by_torch
from framehaul_pipeline.device.devices import CudaDevice, open_device
from framehaul_pipeline.device.streams import Event, Stream
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.chunks import Chunk, InletSlot
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.worker.jobs import ChunkJob
from framehaul_pipeline.worker.launch import Launcher
from framehaul_pipeline.worker.parking import Place
from tests.support.fake_decoder import FAKE_SPEC, FakeDecoder, fake_opening

pytestmark = pytest.mark.needs_cuda

SIDE = 64
FRAME_BYTES = 2 * SIDE * 2 * SIDE * 3
NUM_CHUNKS = 24
DELAY_CYCLES = 20_000_000
"""About 10 ms, a hundred times the work of a chunk here."""


class RunningSum(FakeDecoder):
    """Grey level of each frame: the sum of all latents so far; all on the device, so that nothing waits."""

    spec = msgspec.structs.replace(FAKE_SPEC, first_frames=2)

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        return [torch.zeros(1, device="cuda")]

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        totals = state[0] + latents[:, 0, 0, 0].float().cumsum(0)
        levels = (totals % 256 / 127.5 - 1.0).repeat_interleave(2).view(-1, 1, 1, 1)
        frames = levels.expand(-1, 3, 2 * latents.shape[2], 2 * latents.shape[3])
        return frames, [totals[-1:].clone()]


class DelayedStream:
    """A stream whose every piece of work starts late."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def run(self, work: Callable[[], None]) -> None:
        def late() -> None:
            torch.cuda._sleep(DELAY_CYCLES)
            work()

        self._stream.run(late)

    def record(self, *, timed: bool = False) -> Event:
        return self._stream.record(timed=timed)

    def wait(self, event: Event) -> None:
        self._stream.wait(event)


class DelayedDevice(CudaDevice):
    """Delays the streams of these numbers, in the order of their creation."""

    def __init__(self, delayed: frozenset[int]) -> None:
        super().__init__(0)
        self._delayed = delayed
        self._numbers = itertools.count()

    def stream(self) -> Stream:
        stream = super().stream()
        return DelayedStream(stream) if next(self._numbers) in self._delayed else stream


def test_a_ring_is_registered_as_pinned_memory() -> None:
    """Copies into it run asynchronously, and end where the slot is."""
    ring = Ring.create("framehaul-gpu", num_slots=2, slot_bytes=1 << 20)
    device = open_device("cuda")
    memory = device.attach(ring)
    assert memory.is_pinned()
    start = ring.payload_offset(1)
    memory[start : start + (1 << 20)].copy_(
        torch.full((1 << 20,), 7, dtype=torch.uint8, device="cuda"), non_blocking=True
    )
    torch.cuda.synchronize()
    with ring.payload(0) as before, ring.payload(1) as payload:
        assert bytes(payload) == b"\x07" * (1 << 20)
        assert not any(before)
    device.detach(ring)
    del memory
    ring.close()


@pytest.mark.parametrize("delayed", [frozenset(), frozenset({0}), frozenset({1}), frozenset({2}), frozenset({0, 2})])
def test_streams_that_run_late_do_not_mix_chunks_up(delayed: frozenset[int]) -> None:
    """Whichever of upload, compute and copy lags behind, each slot gets its own frames, whole."""
    ring = Ring.create("framehaul-gpu", num_slots=NUM_CHUNKS, slot_bytes=2 * FRAME_BYTES)
    inlet = Ring.create("framehaul-gpu-inlet", num_slots=NUM_CHUNKS, slot_bytes=2 * SIDE * SIDE)
    launcher = Launcher(DelayedDevice(delayed), ring, inlet, chunk_latents=1)
    opening = fake_opening(geometry=Geometry(channels=1, height=SIDE, width=SIDE), dtype=LatentDtype.FLOAT16)
    launcher.open(place := Place(RunningSum(), opening))
    total, expected = 0, []
    for index in range(NUM_CHUNKS):
        value = 1 + index % 7
        total += value
        expected.append(total)
        with inlet.payload(index) as payload:
            payload[:] = struct.pack("<e", value) * SIDE * SIDE
    for index in range(NUM_CHUNKS):
        chunk = Chunk(1, index, (InletSlot(index, 1),), 2 * index, 2, last=False)
        launcher.launch(ChunkJob(chunk, place, index, 1))
    launcher.settle()
    for index, level in enumerate(expected):
        with ring.payload(index) as payload:
            assert bytes(payload[: 2 * FRAME_BYTES]) == bytes([level]) * 2 * FRAME_BYTES
    launcher.close()
    del launcher
    ring.close()
    inlet.close()


def decode_in_chunks(device: torch.device, dtype: torch.dtype, latents: Tensor, sizes: tuple[int, ...]) -> Tensor:
    decoder = read_tiny(device, dtype)
    state = decoder.open(Geometry(channels=16, height=latents.shape[2], width=latents.shape[3]), None)
    frames = []
    for chunk in latents.to(device, dtype).split(list(sizes)):
        part, state = decoder.step(chunk, state)
        frames.append(part)
    return torch.cat(frames).float().cpu()


@pytest.fixture
def exact_float32() -> None:
    torch.backends.cudnn.allow_tf32 = False


@pytest.mark.usefixtures("exact_float32")
def test_tiny_on_the_gpu_equals_tiny_on_the_cpu() -> None:
    """In float32 without TF32, to rounding; in float16, as pictures."""
    latents = torch.randn(6, 16, 15, 26, generator=torch.Generator().manual_seed(5)).clamp(-3, 3)
    reference = decode_in_chunks(torch.device("cpu"), torch.float32, latents, (6,))
    single = decode_in_chunks(torch.device("cuda"), torch.float32, latents, (6,))
    assert (single - reference).abs().max() < 1e-4
    half = decode_in_chunks(torch.device("cuda"), torch.float16, latents, (6,))
    error = (half - reference).abs()
    assert error.max() < 0.05
    assert error.mean() < 2e-3


@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("sizes", [(1,) * 11, (2, 2, 2, 2, 2, 1), (3, 3, 3, 2), (5, 5, 1)])
def test_chunks_of_any_size_equal_the_whole(sizes: tuple[int, ...]) -> None:
    """The golden rule, on the GPU: 1e-5 in float32."""
    latents = torch.randn(11, 16, 15, 26, generator=torch.Generator().manual_seed(6)).clamp(-3, 3)
    whole = decode_in_chunks(torch.device("cuda"), torch.float32, latents, (11,))
    chunked = decode_in_chunks(torch.device("cuda"), torch.float32, latents, sizes)
    assert (chunked - whole).abs().max() < 1e-5


@pytest.mark.parametrize("pixel_format", list(PixelFormat))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(48, 80), (30, 1042)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_conversion_on_the_gpu_equals_the_cpus(
    pixel_format: PixelFormat, dtype: torch.dtype, size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    """Byte for byte: the kernels, torch's operations on the GPU, and those on the CPU."""
    values = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(7)) * 2.2 - 1.1
    frames = values.to(dtype).contiguous(memory_format=memory_format)
    expected, by_torch, by_kernels = (
        torch.full((3, pixel_format.frame_bytes(*size)), 77, dtype=torch.uint8, device=device)
        for device in ("cpu", "cuda", "cuda")
    )
    convert(frames, pixel_format, expected)
    convert_by_torch(frames.cuda(), pixel_format, by_torch)
    convert(frames.cuda(), pixel_format, by_kernels)
    assert torch.equal(by_torch.cpu(), expected)
    assert torch.equal(by_kernels.cpu(), expected)


def test_conversion_on_the_gpu_is_one_kernel() -> None:
    """Frames are read once: nothing is computed beside it, whatever the format."""
    frames = torch.rand(4, 3, 64, 96, device="cuda", dtype=torch.float16)
    for pixel_format in PixelFormat:
        out = torch.empty(4, pixel_format.frame_bytes(64, 96), dtype=torch.uint8, device="cuda")
        convert(frames, pixel_format, out)  # compiles
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities, acc_events=True) as profile:
            convert(frames, pixel_format, out)
            torch.cuda.synchronize()
        kernels = [event.name for event in profile.events() if event.device_type.name == "CUDA"]
        assert len(kernels) == 1, kernels


def test_a_device_that_is_not_there_is_refused() -> None:
    """By its name, with what is allowed."""
    with pytest.raises(InvalidInput, match="device=cuda:63: must be cpu, or one of"):
        open_device("cuda:63")
