"""The worker when memory is short: refusals with a reason, memory that is free again, sessions that are parked."""

import gc
import logging
import weakref
from collections.abc import Iterator

import msgspec
import pytest
import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.link.messages import (
    CloseSession,
    MemoryUsed,
    OpenSession,
    SessionEnded,
    SessionFailed,
)
from framehaul_pipeline.scheduling.memory import MemoryLimits
from framehaul_pipeline.spec import UNTOLD_LATENTS, Geometry
from framehaul_pipeline.worker.warm_up import ChunkLengths
from tests.support.fake_decoder import FAKE_SPEC, FakeDecoder, expected_levels, fake_opening
from tests.support.worker_bench import Bench

STATE_BYTES = 8
ONE_AND_ONE = MemoryLimits(device_bytes=STATE_BYTES, park_bytes=2 * STATE_BYTES, page_bytes=STATE_BYTES)
"""Room for one session on the device, and for one more on the host beside the place that swapping needs."""


class CountingDevice(CpuDevice):
    """Counts how often its cache was emptied, and can run out of host memory."""

    def __init__(self) -> None:
        super().__init__()
        self.num_released = 0
        self.host_is_full = False

    def release_cached(self) -> None:
        self.num_released += 1

    def pinned(self, num_bytes: int) -> Tensor:
        if self.host_is_full:
            raise RuntimeError("no memory to pin")
        return super().pinned(num_bytes)


class ShortDecoder(FakeDecoder):
    """Runs out of device memory as often as it is told to, with a large tensor in its hands."""

    def __init__(self, *, failing_opens: int = 0, failing_steps: int = 0) -> None:
        self.failing_opens, self.failing_steps = failing_opens, failing_steps
        self.held: list[weakref.ref[Tensor]] = []

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        if self.failing_opens:
            self.failing_opens -= 1
            self._run_out()
        return super().open(geometry, num_latents, first_latent=first_latent)

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        if self.failing_steps:
            self.failing_steps -= 1
            self._run_out()
        return super().step(latents, state)

    def _run_out(self) -> None:
        activations = torch.zeros(1000)
        self.held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def no_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only counted references free memory here: the collector may come late, or never while a chunk waits for room."""
    # pytest keeps log records, and with them the errors' tracebacks.
    monkeypatch.setattr(logging.getLogger("framehaul_pipeline.worker.worker"), "disabled", True)
    gc.disable()
    yield
    gc.enable()


def test_a_session_that_does_not_fit_is_refused_before_anything_is_allocated() -> None:
    """The reason says what it needs and what there is; nothing is tried on the device, nothing said of being opened."""
    decoder = ShortDecoder(failing_opens=1)
    with Bench(None, MemoryLimits(device_bytes=4, page_bytes=4), short=decoder) as bench:
        bench.open(1, model="short")
        bench.run()
        assert decoder.failing_opens == 1
        [failed] = bench.sent
        assert isinstance(failed, SessionFailed)
        assert failed.overloaded
        assert "a session of this size needs" in failed.reason
        assert "0 sessions use 0.00 GiB of 0.00 GiB" in failed.reason


class Growing(FakeDecoder):
    """Its state grows by 12 bytes a latent, at the fake's four pixels and in its 32 bits, and takes 8 besides."""

    spec = msgspec.structs.replace(FAKE_SPEC, growth_bytes_per_pixel=1.5)

    def state_bytes(self, geometry: Geometry) -> int:
        return STATE_BYTES + 12 * UNTOLD_LATENTS


@pytest.mark.parametrize(
    ("device_bytes", "told", "fitting"),
    [
        (STATE_BYTES + 12 * 5, 5, None),
        (STATE_BYTES + 12 * 5, 6, "; a clip of 5 latents or fewer fits, if its opening tells how many it has"),
        (STATE_BYTES + 12 * UNTOLD_LATENTS, None, None),
        (
            STATE_BYTES + 12 * UNTOLD_LATENTS - 1,
            None,
            "; a clip of 127 latents or fewer fits, if its opening tells how many it has",
        ),
        (STATE_BYTES + 11, 6, "0 are parked in 0.00 GiB of 0.00 GiB"),
    ],
)
def test_a_state_that_grows_counts_for_the_whole_clip(device_bytes: int, told: int | None, fitting: str | None) -> None:
    """One that is too long is refused before anything is allocated, and hears how long it may be."""
    with Bench(None, MemoryLimits(device_bytes=device_bytes, page_bytes=1), growing=Growing()) as bench:
        bench.open(1, model="growing", num_latents=told)
        reasons = [message.reason for message in bench.sent if isinstance(message, SessionFailed)]
        assert len(reasons) == (fitting is not None)
        assert fitting is None or reasons[0].partition(" GiB, and ")[2].endswith(fitting)


class Spacious(FakeDecoder):
    """Takes as much memory for each latent of a chunk as for a state."""

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        return num_latents * STATE_BYTES


@pytest.mark.parametrize(
    ("pages", "warmed", "repeated", "longest"),
    [
        pytest.param(3, 2, (), 2, id="room for two latents together"),
        pytest.param(3, 1, (), 1, id="warming up found one to be as fast"),
        pytest.param(2, 2, (), 1, id="room for one"),
        pytest.param(1, 2, (), None, id="room for none"),
        pytest.param(2, 1, (2,), None, id="room for one, and two are to be repeated together"),
    ],
)
def test_chunks_are_as_long_as_warming_up_found_and_as_there_is_room_for(
    pages: int, warmed: int, repeated: tuple[int, ...], longest: int | None
) -> None:
    """A session is refused only where there is no room for the shortest ones, or for those it must repeat."""
    limits = MemoryLimits(device_bytes=pages * STATE_BYTES, page_bytes=STATE_BYTES)
    with Bench(None, limits, spacious=Spacious()) as bench:
        opening = fake_opening(model="spacious", chunks=repeated)
        bench.worker.before_serving(lambda: {("fake", opening.geometry): warmed})
        bench.worker.apply(OpenSession(session=1, opening=opening))
        for slot in range(3):
            bench.latent(1, slot, 1)
        bench.run()
        chunks = [message.chunks[-1] for message in bench.published]
        assert chunks == {None: [], 1: [1, 1, 1], 2: [1, 2]}[longest]
        assert bool(bench.failed) is (longest is None)


@pytest.mark.usefixtures("no_collector")
def test_an_opening_is_tried_again_once_the_cache_is_empty() -> None:
    """Gaps between allocations are no reason to refuse; what the first try held is free by then."""
    device, decoder = CountingDevice(), ShortDecoder(failing_opens=1)
    with Bench(device, short=decoder) as bench:
        bench.open(1, model="short")
        bench.run()
        assert bench.sent == []
        bench.latent(1, 0, 5)
        bench.run()
        assert bench.levels() == [5]
        assert device.num_released == 1
        assert [reference() for reference in decoder.held] == [None]


def test_an_opening_is_tried_twice_at_most() -> None:
    """Then the session is refused."""
    device, decoder = CountingDevice(), ShortDecoder(failing_opens=3)
    with Bench(device, short=decoder) as bench:
        bench.open(1, model="short")
        bench.run()
        assert [type(message) for message in bench.sent] == [SessionFailed]
        assert (decoder.failing_opens, device.num_released) == (1, 2)


@pytest.mark.usefixtures("no_collector")
def test_a_step_that_runs_out_of_memory_fails_its_session_and_frees_all() -> None:
    """It isn't tried again, since it may have changed the state; another session goes on."""
    device, decoder = CountingDevice(), ShortDecoder(failing_steps=1)
    with Bench(device, MemoryLimits(device_bytes=100, page_bytes=4), short=decoder) as bench:
        bench.open(1, model="short")
        bench.open(2)
        bench.latent(1, 0, 5)
        bench.latent(2, 1, 7)
        bench.end(2)
        bench.run()
        [failed] = bench.failed
        assert (failed.session, failed.overloaded) == (1, True)
        assert "device memory is full" in failed.reason
        assert [reference() for reference in decoder.held] == [None]
        assert device.num_released == 1
        assert SessionEnded(session=2, num_frames=1) in bench.sent
        assert bench.levels() == expected_levels([7])
        assert bench.used.used_bytes == 0


def test_sessions_take_turns_on_a_device_with_room_for_one() -> None:
    """One is parked while the other decodes; each gets its own frames, and the server hears of it."""
    with Bench(None, ONE_AND_ONE) as bench:
        for session, value in ((1, 10), (2, 100)):
            bench.open(session)
            bench.latent(session, session - 1, value)
            bench.run()
        assert bench.used == MemoryUsed(used_bytes=STATE_BYTES, total_bytes=STATE_BYTES, num_parked=1)
        bench.latent(1, 2, 3)
        bench.end(1)
        bench.run()
        assert bench.levels() == [10, 100, 13, 13]
        assert bench.used == MemoryUsed(used_bytes=0, total_bytes=STATE_BYTES, num_parked=1)


@pytest.mark.usefixtures("no_collector")
def test_a_parked_session_holds_no_device_memory() -> None:
    """Its state's tensors are gone once they are copied."""

    class WatchedDecoder(FakeDecoder):
        def __init__(self) -> None:
            self.states: list[weakref.ref[Tensor]] = []

        def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
            state = super().open(geometry, num_latents, first_latent=first_latent)
            self.states.append(weakref.ref(state[0]))
            return state

    decoder = WatchedDecoder()
    with Bench(None, ONE_AND_ONE, watched=decoder) as bench:
        for session in (1, 2):
            bench.open(session, model="watched")
            bench.run()
        assert bench.used.num_parked == 1
        assert [reference() is None for reference in decoder.states] == [True, False]


def test_a_third_session_is_refused_where_swapping_needs_the_place() -> None:
    """The reason counts those that are parked."""
    with Bench(None, ONE_AND_ONE) as bench:
        for session in (1, 2, 3):
            bench.open(session)
            bench.run()
        [failed] = bench.failed
        assert failed.session == 3
        assert "1 sessions use" in failed.reason
        assert "and 1 are parked in" in failed.reason


def test_a_parked_session_whose_client_leaves_frees_both_sides() -> None:
    """Its pages serve the next one that is parked."""
    with Bench(None, ONE_AND_ONE) as bench:
        for session in (1, 2):
            bench.open(session)
            bench.run()
        for newcomer in range(3, 9):
            bench.worker.apply(CloseSession(session=newcomer - 2))
            bench.open(newcomer)
            bench.run()
            assert not bench.failed
            assert bench.used == MemoryUsed(used_bytes=STATE_BYTES, total_bytes=STATE_BYTES, num_parked=1)
        for session in (7, 8):
            bench.worker.apply(CloseSession(session=session))
        assert bench.used == MemoryUsed(used_bytes=0, total_bytes=STATE_BYTES, num_parked=0)


def test_a_host_without_memory_to_pin_refuses_the_newcomer() -> None:
    """The session that would have been parked goes on, and no other is let in on the host's account."""
    device = CountingDevice()
    device.host_is_full = True
    with Bench(device, ONE_AND_ONE) as bench:
        bench.open(1)
        bench.open(2)
        bench.run()
        bench.open(3)
        bench.latent(1, 0, 9)
        bench.end(1)
        bench.run()
        refused = [
            message.session for message in bench.sent if isinstance(message, SessionFailed) and message.overloaded
        ]
        assert refused == [2, 3]
        assert bench.levels() == [9]


def test_what_warm_up_leaves_is_shared_out() -> None:
    """A device's free memory is asked for once the models are loaded and warm."""

    class ShrinkingDevice(CpuDevice):
        free = 100 << 20

        def free_bytes(self) -> int | None:
            return self.free

    device = ShrinkingDevice()
    with Bench(device, MemoryLimits(page_bytes=1 << 20)) as bench:
        assert bench.used.total_bytes == 90 << 20

        def warm_up() -> ChunkLengths:
            device.free = 50 << 20
            return {}

        bench.worker.before_serving(warm_up)
        assert bench.used == MemoryUsed(used_bytes=0, total_bytes=45 << 20, num_parked=0)
