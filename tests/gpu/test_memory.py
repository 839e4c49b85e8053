"""Memory of a real device: what decoders say they need, refusals, parking, and long clips."""

import gc
from collections.abc import Iterator

import pytest
import torch

from framehaul.formats import LatentDtype
from framehaul_pipeline.config import PAGE_BYTES, WorkerConfig
from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.device.devices import CudaDevice
from framehaul_pipeline.errors import Overloaded
from framehaul_pipeline.models.model import TINY
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.chunks import Chunk, InletSlot
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.supervision.supervisor import Supervisor
from framehaul_pipeline.worker.jobs import ChunkJob
from framehaul_pipeline.worker.launch import Launcher
from framehaul_pipeline.worker.parking import Place
from tests.support.fake_decoder import fake_opening
from tests.support.supervised import Recorder, decode, latents, open_session, push

pytestmark = pytest.mark.needs_cuda

CUDA = torch.device("cuda", 0)
ALLOCATION_BYTES = 2 << 20
"""Slack for the allocator, which rounds each tensor up, and for libraries' small workspaces."""
WORKSPACE_PAGES = 2
"""What a chunk of one small latent takes: cuDNN's own, and a little."""


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    # What earlier tests left in cycles would go at any time.
    gc.collect()
    yield load_decoder(TINY, CUDA)
    torch.cuda.empty_cache()


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(480, 832), (720, 1280)])
@pytest.mark.parametrize("num_latents", [1, 4])
def test_decoders_say_what_they_need(decoder: Decoder, height: int, width: int, num_latents: int) -> None:
    """State within 10 %; a step's workspace at least the measured peak, and at most twice that."""
    geometry = Geometry(channels=decoder.spec.channels, height=height // 8, width=width // 8)
    chunk = torch.zeros(num_latents, geometry.channels, geometry.height, geometry.width, device=CUDA).to(decoder.dtype)
    frames, warm = decoder.step(chunk, decoder.open(geometry, None))
    del frames, warm
    torch.cuda.synchronize()

    before = torch.cuda.memory_allocated()
    state = decoder.open(geometry, None)
    held = torch.cuda.memory_allocated() - before
    said = decoder.state_bytes(geometry)
    assert abs(said - held) <= 0.1 * held + ALLOCATION_BYTES

    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        frames, state = decoder.step(chunk, state)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before - held
        workspace = decoder.workspace_bytes(geometry, num_latents)
        assert peak - ALLOCATION_BYTES <= workspace <= 2 * peak + ALLOCATION_BYTES
        del frames
        assert abs(torch.cuda.memory_allocated() - before - held) <= ALLOCATION_BYTES


def test_device_memory_is_flat_however_long_the_clip(decoder: Decoder) -> None:
    """As much is allocated after three hundred latents as after ten."""
    geometry = Geometry(channels=16, height=32, width=32)
    frame_bytes = 256 * 256 * 3
    ring = Ring.create("framehaul-gpu", num_slots=2, slot_bytes=4 * frame_bytes)
    inlet = Ring.create("framehaul-gpu-inlet", num_slots=2, slot_bytes=geometry.latent_bytes(LatentDtype.FLOAT16))
    launcher = Launcher(CudaDevice(0), ring, inlet, chunk_latents=1)
    launcher.open(place := Place(decoder, fake_opening(geometry=geometry, dtype=LatentDtype.FLOAT16)))
    allocated = {}
    for index in range(300):
        slot = index % 2
        launcher.launch(ChunkJob(Chunk(1, index, (InletSlot(slot, 1),), 4 * index, 4, last=False), place, slot, 1))
        launcher.settle()
        allocated[index + 1] = torch.cuda.memory_allocated()
    launcher.close()
    del launcher
    ring.close()
    inlet.close()
    assert allocated[300] == allocated[10]


def limited(*, sessions: int, parked: int) -> WorkerConfig:
    """A worker with room for so many sessions of a page each, and for the workspace of one chunk."""
    return WorkerConfig(
        device="cuda",
        max_pixels=64 * 64,
        chunk_latents=1,
        device_memory_bytes=(sessions + WORKSPACE_PAGES) * PAGE_BYTES,
        park_bytes=parked * PAGE_BYTES,
    )


@pytest.mark.asyncio
async def test_a_full_device_refuses_the_next_session_and_the_others_finish() -> None:
    """With the numbers in the reason; and the others' frames are, bit for bit, those of lone sessions."""
    supervisor = Supervisor(limited(sessions=2, parked=0))
    await supervisor.start()
    alone = [await decode(supervisor, 8, seed) for seed in range(2)]
    recorders = [Recorder() for _ in range(2)]
    sessions = [open_session(supervisor, recorder) for recorder in recorders]
    for seed, session in enumerate(sessions):
        push(session, latents(8, seed))
        session.allow(4)
    for recorder in recorders:
        await recorder.received(1)
    refused = Recorder()
    open_session(supervisor, refused)
    error = await refused.failed()
    assert isinstance(error, Overloaded)
    assert "2 sessions use 0.06 GiB of 0.06 GiB" in str(error)
    for session in sessions:
        session.allow(8)
        session.end_latents()
    for recorder, expected in zip(recorders, alone, strict=True):
        await recorder.ended()
        assert recorder.frames == expected
    await supervisor.aclose()


@pytest.mark.asyncio
async def test_parked_sessions_give_the_frames_of_lone_ones() -> None:
    """Four sessions on a device with room for one, a latent each in turn, so that each is parked between two."""
    supervisor = Supervisor(limited(sessions=1, parked=4))
    await supervisor.start()
    alone = [await decode(supervisor, 8, seed) for seed in range(4)]
    recorders = [Recorder() for _ in range(4)]
    sessions = [open_session(supervisor, recorder) for recorder in recorders]
    for seed, session in enumerate(sessions):
        push(session, latents(8, seed))
    frame_bytes = len(alone[0]) // 32
    for index in range(8):
        for session, recorder in zip(sessions, recorders, strict=True):
            session.allow(index + 1)
            await recorder.received(4 * (index + 1) * frame_bytes)
        assert supervisor.statistics().num_parked == 3
    for session, recorder, expected in zip(sessions, recorders, alone, strict=True):
        session.end_latents()
        await recorder.ended()
        assert recorder.frames == expected
    await supervisor.aclose()
