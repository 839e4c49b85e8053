"""Wan's decoder as CUDA runs it, with random weights at the published size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.engine.convolution import open_plans
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.decoders.wan.decoder import CudaWanDecoder, PortableWanDecoder
from framehaul_pipeline.decoders.wan.net import WanNet
from framehaul_pipeline.link.heirloom import Heirloom
from framehaul_pipeline.models.wan import parse_wan_config, wan_spec
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import check_starts_anywhere, decode

pytestmark = pytest.mark.needs_cuda

CUDA = torch.device("cuda", 0)
CONFIG = parse_wan_config({})
GEOMETRY = Geometry(channels=16, height=16, width=24)
ALLOCATION_BYTES = 64 << 20
"""Slack for the allocator and for libraries' own workspaces."""


def build_net() -> WanNet:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = WanNet(CONFIG)
    for parameter in net.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def plans() -> Iterator[PlanTable | None]:
    heirloom = Heirloom.create()
    yield open_plans(CUDA, heirloom)
    heirloom.close()


@pytest.fixture(scope="module")
def wan(plans: PlanTable | None) -> Iterator[CudaWanDecoder]:
    yield CudaWanDecoder(wan_spec("wan2.1", CONFIG), build_net(), CUDA, plans)
    torch.cuda.empty_cache()


def random_latents(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 16, 16, 24, generator=generator).to(CUDA, torch.bfloat16)


def test_error_is_below_bfloat16s_in_any_chunking(wan: CudaWanDecoder) -> None:
    """Against the portable form in float32, beside the portable form in bfloat16; with pairs of frames and without."""
    latents = random_latents(6)
    reference = PortableWanDecoder(wan.spec, build_net().to(CUDA))
    with torch.backends.cudnn.flags(allow_tf32=False):
        expected = decode(reference, latents.float(), [1, 2, 3])
    assert (expected.abs() < 1).float().mean() > 0.9
    plain = PortableWanDecoder(wan.spec, build_net().to(CUDA, torch.bfloat16))
    plain.dtype = torch.bfloat16
    allowed = (decode(plain, latents, [1, 2, 3]).float() - expected).norm() / expected.norm()
    for chunks in ([1] * 6, [1, 2, 3], [1, 5], [1, 4, 1]):
        error = (decode(wan, latents, chunks).float() - expected).norm() / expected.norm()
        assert error < allowed, chunks


def test_recorded_chunks_equal_eager_ones_to_the_bit(wan: CudaWanDecoder, plans: PlanTable | None) -> None:
    """A graph replays the same kernels, on whichever session's state is set."""
    latents = random_latents(6)
    with wan.preparing():
        decode(wan, latents, [1, 2, 3])
    recorded = decode(wan, latents, [1, 2, 3])
    eager = CudaWanDecoder(wan.spec, build_net(), CUDA, plans)
    assert torch.equal(decode(eager, latents, [1, 2, 3]), recorded)
    assert torch.equal(decode(wan, random_latents(6, 1), [1, 2, 3]), decode(eager, random_latents(6, 1), [1, 2, 3]))


def test_recorded_chunks_of_all_lengths_take_hardly_more_memory_than_the_longest(plans: PlanTable | None) -> None:
    """They work in the same memory, which comes back when they are forgotten; only inputs and frames are their own."""
    wan = CudaWanDecoder(wan_spec("wan2.1", CONFIG), build_net(), CUDA, plans)

    def kept_bytes(chunks: list[int]) -> int:
        before = torch.cuda.memory_reserved()
        with wan.preparing():
            decode(wan, random_latents(sum(chunks)), chunks)
        return torch.cuda.memory_reserved() - before

    kept_bytes([1, 4])  # what libraries keep for good
    wan.forget()
    before = torch.cuda.memory_reserved()
    longest = kept_bytes([1, 4])
    wan.forget()
    assert longest > 2 * ALLOCATION_BYTES
    assert kept_bytes([1, 4, 3, 2, 1]) <= longest + ALLOCATION_BYTES
    wan.forget()
    assert torch.cuda.memory_reserved() <= before


def test_interleaved_sessions_equal_lone_ones_to_the_bit(wan: CudaWanDecoder) -> None:
    """Also when the states went to the host and came back to other places, as parked ones do."""
    clips = [random_latents(5, seed) for seed in (1, 2, 3)]
    alone = [decode(wan, clip, [1, 2, 2]) for clip in clips]
    states: list[State] = [wan.open(GEOMETRY, None) for _ in clips]
    together: list[list[Tensor]] = [[] for _ in clips]
    for start, length in ((0, 1), (1, 2), (3, 2)):
        for i, clip in enumerate(clips):
            frames, states[i] = wan.step(clip[start : start + length], states[i])
            together[i].append(frames.clone())
        states = [[tensor.cpu() for tensor in state] for state in states]
        states = [[tensor.to(CUDA) for tensor in state] for state in states]
    for parts, expected in zip(together, alone, strict=True):
        assert torch.equal(torch.cat(parts), expected)


def test_a_decode_that_starts_in_the_middle_gives_the_clips_frames_bit_for_bit(plans: PlanTable | None) -> None:
    """Kernel by kernel and as graphs, in pairs of frames and without; a clip's first latent has a graph of its own."""
    wan = CudaWanDecoder(wan_spec("wan2.1", CONFIG), build_net(), CUDA, plans)
    chunks = (1, 4, 2, 1, 3, *[4] * 11)
    latents = random_latents(sum(chunks))
    check_starts_anywhere(wan, latents, chunks)
    with wan.preparing():
        decode(wan, latents[:11], [1, 1, 2, 3, 4])
    check_starts_anywhere(wan, latents, chunks)


def test_no_kernel_converts_a_layout(wan: CudaWanDecoder) -> None:
    """Channels stay last from the first convolution to the pixels."""
    latents = random_latents(5)
    state = wan.open(GEOMETRY, None)
    _, state = wan.step(latents[:1], state)
    _, state = wan.step(latents[1:3], state)
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        wan.step(latents[3:], state)
        torch.cuda.synchronize()
    names = {event.key for event in profiler.key_averages()}
    assert any("fprop" in name for name in names)
    assert not [name for name in names if "nchw" in name.lower() or "transpose" in name.lower()]


@pytest.mark.parametrize(("height", "width"), [(480, 832), (720, 1280)])
def test_it_says_what_it_needs(wan: CudaWanDecoder, height: int, width: int) -> None:
    """State within 10 %; a chunk's workspace at least the measured peak, and at most twice that."""
    geometry = Geometry(channels=16, height=height // 8, width=width // 8)
    before = torch.cuda.memory_allocated()
    state = wan.open(geometry, None)
    held = torch.cuda.memory_allocated() - before
    assert abs(wan.state_bytes(geometry) - held) <= 0.1 * held
    latents = torch.randn(4, 16, geometry.height, geometry.width, device=CUDA).to(wan.dtype)
    _, state = wan.step(latents[:1], state)
    for num_latents in (1, 2, 4):
        _, state = wan.step(latents[:num_latents], state)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        _, state = wan.step(latents[:num_latents], state)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - allocated
        said = wan.workspace_bytes(geometry, num_latents)
        assert peak - ALLOCATION_BYTES <= said <= 2 * peak + ALLOCATION_BYTES, num_latents
