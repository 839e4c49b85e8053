"""Wan's decoder against diffusers, which it loads the weights of: any chunking gives the library's whole decode."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.engine.weights import phase_weights, tap_weights
from framehaul_pipeline.decoders.wan.decoder import PortableWanDecoder
from framehaul_pipeline.decoders.wan.net import CausalConv3d, unpatchify
from framehaul_pipeline.decoders.wan.weights import magnitude_bound
from framehaul_pipeline.models.wan import wan_spec
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import check_starts_anywhere, decode, one_thread
from tests.support.wan_models import NAMES, build_net, build_vae, decode_whole

GEOMETRY = Geometry(channels=4, height=3, width=5)
TOLERANCE = 2e-5


def decoder(name: str) -> PortableWanDecoder:
    net = build_net(build_vae(name))
    return PortableWanDecoder(wan_spec(name, net.config), net)


def random_latents(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 3, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunks", [[1] * 7, [1, 2, 2, 2], [1, 3, 3], [1, 5, 1], [1, 1, 4, 1]], ids=str)
def test_any_chunking_equals_the_librarys_decode(name: str, chunks: list[int]) -> None:
    """In float32, within rounding; the frames aren't all clamped, so that a difference would show."""
    latents = random_latents(7)
    whole = decode_whole(build_vae(name), latents)
    assert (whole.abs() < 1).float().mean() > 0.5
    torch.testing.assert_close(decode(decoder(name), latents, chunks), whole, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_interleaved_sessions_equal_lone_ones_to_the_bit(name: str) -> None:
    """Two sessions share the weights and nothing else, also when one's state went to another place in between."""
    wan = decoder(name)
    clips = [random_latents(5, seed) for seed in (1, 2)]
    alone = [decode(wan, clip, [1, 2, 2]) for clip in clips]
    states: list[State] = [wan.open(GEOMETRY, None) for _ in clips]
    together: list[list[Tensor]] = [[], []]
    for start, length in ((0, 1), (1, 2), (3, 2)):
        for i, clip in enumerate(clips):
            frames, states[i] = wan.step(clip[start : start + length], states[i])
            together[i].append(frames)
            states[i] = [tensor.clone() for tensor in states[i]]
    for parts, expected in zip(together, alone, strict=True):
        assert torch.equal(torch.cat(parts), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_decode_that_starts_in_the_middle_gives_the_clips_frames_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    """From each latent behind the first at which a chunk starts, once the memory of zeros is used up."""
    net = build_net(build_vae(name)).to(dtype)
    wan = PortableWanDecoder(wan_spec(name, net.config), net)
    wan.dtype = dtype
    chunks = (1, 4, 2, *[4] * 8)
    latents = torch.randn(sum(chunks), 4, 1, 2, generator=torch.Generator().manual_seed(5))
    check_starts_anywhere(wan, latents.to(dtype), chunks)


@pytest.mark.parametrize("name", NAMES)
@one_thread()
def test_history_is_as_long_as_the_spec_says_from_any_latent_on(name: str) -> None:
    """In float64, latent by latent: frames of the history's last latent still differ, and not one after it."""
    net = build_net(build_vae(name)).double()
    wan = PortableWanDecoder(wan_spec(name, net.config), net)
    wan.dtype = torch.float64
    history = wan.spec.history_latents
    assert history is not None
    latents = torch.randn(6 + history, 4, 1, 1, generator=torch.Generator().manual_seed(6)).double()

    whole = decode(wan, latents, 1)
    for start in (1, 2, 5):
        part = decode(wan, latents[start:], 1, first_latent=start)
        same = (part == whole[wan.spec.num_frames(start) :]).flatten(1).all(1)
        same = same.view(-1, wan.spec.temporal_factor).all(1)
        assert not same[history - 1]
        assert same[history:].all()


@pytest.mark.parametrize("name", NAMES)
def test_the_first_latent_is_decoded_alone(name: str) -> None:
    """It becomes one frame, so it can't share a chunk with others; later ones can."""
    wan = decoder(name)
    assert wan.next_chunk(0, 5, 4, ended=False) == 1
    assert wan.next_chunk(1, 5, 4, ended=False) == 4
    assert wan.next_chunk(1, 3, 4, ended=True) == 3
    assert wan.next_chunk(0, 0, 4, ended=True) == 0
    assert wan.flush(wan.open(GEOMETRY, None)) is None


@pytest.mark.parametrize("name", NAMES)
def test_state_bytes_are_what_open_takes(name: str) -> None:
    """So that admission can count on it; what marks the beginning has no bytes of its own."""
    wan = decoder(name)
    state = wan.open(GEOMETRY, None)
    assert sum(tensor.nbytes for tensor in state) == wan.state_bytes(GEOMETRY)
    assert wan.workspace_bytes(GEOMETRY, 4) > wan.workspace_bytes(GEOMETRY, 1) > 0


def test_the_fused_form_equals_the_library() -> None:
    """What CUDA runs: its kernels in Triton's interpreter, in float32, with pairs of frames and without."""
    names = ("wan2.1", "wan2.1-2x", "wan2.2")
    program = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipeline.decoders.wan.interpreted_wan", *names],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    differences = {
        name: [float(each) for each in line.split()]
        for name, line in zip(names, program.stdout.splitlines(), strict=True)
    }
    assert [len(each) for each in differences.values()] == [2, 2, 2]
    assert max(max(each) for each in differences.values()) < TOLERANCE, differences


def test_the_fused_form_starts_in_the_middle() -> None:
    """Bit for bit after as many latents as the portable form needs, with pairs of frames and without."""
    program = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipeline.decoders.wan.interpreted_wan_start"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert program.returncode == 0, program.stderr


def test_one_small_convolution_is_doubling_and_a_large_one() -> None:
    """Phase `(a, b)` of the doubled frame lies one row up if `a` and one column left if `b` in the 2x2 result."""
    x, weight = torch.randn(2, 3, 4, 5).double(), torch.randn(6, 3, 3, 3).double()
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, padding=1)
    phases = F.conv2d(x, phase_weights(weight), padding=1).view(2, 2, 2, 6, 5, 6)
    for a in range(2):
        for b in range(2):
            place = phases[:, a, b, :, a : a + 4, b : b + 5]
            torch.testing.assert_close(place, expected[:, :, a::2, b::2], rtol=0, atol=1e-12)


def test_taps_sum_to_the_convolution() -> None:
    """Each tap's products are channels; those beyond the last tap are zero."""
    x, weight = torch.randn(1, 5, 3, 4, 6).double(), torch.randn(3, 5, 3, 3, 3).double()
    taps = F.conv3d(x, tap_weights(weight))
    assert taps.shape == (1, 32, 1, 4, 6)
    assert not taps[:, 27:].any()
    padded = F.pad(taps[0, :27, 0].view(3, 3, 3, 4, 6), (1, 1, 1, 1))
    summed = sum(padded[i, j, :, i : i + 4, j : j + 6] for i in range(3) for j in range(3))
    torch.testing.assert_close(summed, F.conv3d(x, weight, padding=(0, 1, 1))[0, :, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_after_a_norm_exceeds_the_bound(name: str) -> None:
    """However large the latents are: this is what lets those values be kept in float16."""
    net = build_net(build_vae(name))
    bound = magnitude_bound(net)
    seen = []

    def watch(_: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(max(inputs[0].abs().max().item(), output.abs().max().item()))

    convolutions = [
        module
        for module_name, module in net.named_modules()
        if isinstance(module, (CausalConv3d, torch.nn.Conv2d))
        and module_name.endswith(("conv1", "conv2", "to_qkv", "proj", "conv_out"))
    ]
    for convolution in convolutions:
        convolution.register_forward_hook(watch)
    wan = PortableWanDecoder(wan_spec(name, net.config), net)
    decode(wan, 1000 * random_latents(3), [1, 2])
    assert len(seen) == 2 * len(convolutions)
    assert max(seen) <= bound


def test_patches_become_pixels_as_in_the_library() -> None:
    """The patch's first index is the column, its second the row."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify as library_unpatchify

    x = torch.randn(5, 12, 3, 4)
    expected = library_unpatchify(x.transpose(0, 1).unsqueeze(0), 2)[0].transpose(0, 1)
    assert torch.equal(unpatchify(x, 2), expected)
