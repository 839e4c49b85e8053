"""State on its way to the host and back: bit-exact in any layout, and never ahead of the work it depends on."""

import itertools

import pytest
import torch

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.worker.parking import Parking, Place, forget
from tests.support.fake_decoder import FakeDecoder, fake_opening
from tests.support.simulated_device import SimulatedDevice

PAGE_BYTES = 64


def place_of(state: State) -> Place:
    return Place(FakeDecoder(), fake_opening(), state)


def some_state() -> State:
    """Two dtypes and three layouts, one of them with gaps; all sizes but multiples of a page."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(1, 3, 5, 7, generator=generator, dtype=torch.float32)
    return [
        frames.to(torch.bfloat16),
        frames.to(memory_format=torch.channels_last),
        torch.empty(0),
        torch.randn(4, 6, generator=generator)[:, :3],
    ]


@pytest.mark.parametrize("order", list(itertools.permutations((0, 1))))
def test_a_parked_state_comes_back_bit_exact_whichever_stream_runs_ahead(order: tuple[int, ...]) -> None:
    """The copies wait for the work that makes the state, and for the memory it comes back to."""
    device = SimulatedDevice(lambda num_ready: 0)
    compute = device.stream()
    parking = Parking(device, compute)
    device.run_first(order)
    parking.pin(20, PAGE_BYTES)
    place, expected = place_of([]), some_state()
    compute.run(lambda: setattr(place, "state", some_state()))

    parked = parking.park(place, pages=range(19, -1, -1))
    parked.synchronize()
    forget(place)
    assert place.state == []
    compute.run(lambda: None)
    parking.restore(place, pages=range(19, -1, -1)).synchronize()
    parking.settle()

    assert len(place.state) == len(expected)
    for found, wanted in zip(place.state, expected, strict=True):
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)
    assert place.state[1].is_contiguous(memory_format=torch.channels_last)
    assert place.state[3].is_contiguous()


def test_two_states_on_interleaved_pages() -> None:
    """Each finds its own bytes again, in pages that were made at different times."""
    parking = Parking(CpuDevice(), CpuDevice().stream())
    parking.pin(2, PAGE_BYTES)
    parking.pin(2, PAGE_BYTES)
    first, second = place_of([torch.arange(30.0)]), place_of([torch.arange(30.0).neg()])
    parking.park(first, pages=(3, 0))
    parking.park(second, pages=(1, 2))
    for place in (first, second):
        forget(place)
    parking.restore(second, pages=(1, 2))
    parking.restore(first, pages=(3, 0))
    assert torch.equal(first.state[0], torch.arange(30.0))
    assert torch.equal(second.state[0], torch.arange(30.0).neg())


def test_a_state_that_is_larger_than_its_decoder_said_is_caught() -> None:
    """Rather than parked in part."""
    parking = Parking(CpuDevice(), CpuDevice().stream())
    parking.pin(1, PAGE_BYTES)
    with pytest.raises(RuntimeError, match="a state is larger than 1 pages: state_bytes is too small"):
        parking.park(place_of([torch.zeros(17)]), pages=(0,))
