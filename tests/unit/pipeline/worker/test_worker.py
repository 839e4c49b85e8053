"""The worker on the CPU device, one call at a time: work that fails, and suspects of an earlier worker's death."""

from collections.abc import Iterator

import msgspec
import pytest
import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.link.messages import (
    CloseSession,
    DeviceTime,
    InletReturned,
    Published,
    SessionEnded,
    SessionFailed,
    SlotReturned,
)
from framehaul_pipeline.scheduling.memory import Enter
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.worker.highlights import BatchJob
from framehaul_pipeline.worker.jobs import ChunkJob, MoveJob
from framehaul_pipeline.worker.launch import InFlight
from tests.support.fake_decoder import FAKE_SPEC, FakeDecoder, expected_levels
from tests.support.worker_bench import Bench


class FullDecoder(FakeDecoder):
    """Has no room for a state."""

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        raise torch.OutOfMemoryError("no room")


class LateDecoder(FakeDecoder):
    """Gives a latent's frames when the next latent is there."""

    spec = msgspec.structs.replace(FAKE_SPEC, name="late", lookahead_latents=1)

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        frames, new = super().step(latents, state[:1])
        held = torch.cat([*state[1:], frames])
        num_out = len(held) - (1 if new[0][1] == 1 else 2)
        return held[:num_out], [*new, held[num_out:]]

    def flush(self, state: State) -> Tensor | None:
        return state[1]


class DrainingDecoder(LateDecoder):
    """Gives the last latent's frames for the blank behind it."""

    spec = msgspec.structs.replace(LateDecoder.spec, name="draining", drains=True)

    def drain(self, num_blanks: int, state: State) -> tuple[Tensor, State]:
        return state[1], []

    def flush(self, state: State) -> Tensor | None:
        return None


class BrokenDevice(CpuDevice):
    """Doesn't answer after an error."""

    def healthy(self) -> bool:
        return False


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench(full=FullDecoder(), late=LateDecoder(), draining=DrainingDecoder()) as bench:
        yield bench


@pytest.mark.parametrize(("reproducible", "chunks"), [(True, [1, 1, 1]), (False, [1, 2])])
def test_a_reproducible_sessions_chunks_have_a_latent_each(bench: Bench, reproducible: bool, chunks: list[int]) -> None:
    """However many lie there; another session's have as many as the load gives."""
    bench.open(1, reproducible=reproducible)
    for slot in range(3):
        bench.latent(1, slot, 1.0)
    bench.run()
    assert [message.chunks for message in bench.published] == [(size,) for size in chunks]


def test_a_session_from_open_to_end(bench: Bench) -> None:
    """Latents back, frames published, ended, in this order; first latents as the clip counts them."""
    bench.open(1)
    bench.latent(1, 0, 9)
    bench.latent(1, 1, 5)
    bench.end(1)
    bench.run()
    assert [type(message) for message in bench.sent] == [
        DeviceTime,
        InletReturned,
        Published,
        DeviceTime,
        InletReturned,
        Published,
        SessionEnded,
    ]
    assert [(message.first_latent, message.chunks) for message in bench.published] == [(0, (1,)), (1, (1,))]
    assert bench.levels() == expected_levels([9, 5])
    assert bench.sent[-1] == SessionEnded(session=1, num_frames=3)


def test_latents_that_give_no_frame_yet_are_decoded_all_the_same(bench: Bench) -> None:
    """A chunk without frames publishes nothing and changes the state; what was held back comes at the end."""
    bench.open(1, model="late")
    for slot, value in enumerate([9, 5, 2]):
        bench.latent(1, slot, value)
        bench.run()
    bench.end(1)
    bench.run()
    found = [(message.first_latent, message.chunks, message.num_frames) for message in bench.published]
    assert found == [(0, (1, 1), 1), (2, (1,), 2), (3, (0,), 2)]
    assert bench.levels() == expected_levels([9, 5, 2])
    assert bench.sent[-1] == SessionEnded(session=1, num_frames=5)


@pytest.mark.parametrize("at_once", [True, False])
def test_blanks_bring_what_was_held_back(bench: Bench, at_once: bool) -> None:
    """As a chunk of their own or with the last latents; the end comes behind them and brings nothing."""
    bench.open(1, model="draining")
    for slot, value in enumerate([9, 5, None]):
        bench.latent(1, slot, value)
        if not at_once:
            bench.run()
    bench.end(1)
    bench.run()
    found = [(message.first_latent, message.chunks, message.num_frames) for message in bench.published]
    assert found == ([(0, (1, 2), 3)] if at_once else [(0, (1, 1), 1), (2, (1,), 2)])
    assert bench.levels() == expected_levels([9, 5])
    assert bench.sent[-1] == SessionEnded(session=1, num_frames=3)


def test_a_decoder_that_fails_ends_its_session_alone(bench: Bench) -> None:
    """Its slots come back, the reason hides the exception's text, and the next session works."""
    bench.open(1)
    bench.latent(1, 0, -1)
    bench.latent(1, 1, 3)
    bench.run()
    assert bench.sent == [
        InletReturned(slot=0, generation=1),
        InletReturned(slot=1, generation=1),
        SessionFailed(session=1, reason="the decoder failed on this session's latents", overloaded=False),
    ]
    bench.sent.clear()
    bench.open(2)
    bench.latent(2, 2, 7)
    bench.end(2)
    bench.run()
    assert bench.sent[-1] == SessionEnded(session=2, num_frames=1)


def test_a_session_without_room_on_the_device_is_overloaded(bench: Bench) -> None:
    """And latents that come for it afterwards go straight back."""
    bench.open(1, model="full")
    bench.run()
    bench.latent(1, 0, 1)
    failed, returned = bench.sent
    assert isinstance(failed, SessionFailed)
    assert failed.overloaded
    needed = "device memory is full: a session of this size needs 0.02 GiB for its state and 0.00 GiB to decode"
    assert failed.reason.startswith(needed)
    assert returned == InletReturned(slot=0, generation=1)


def test_a_device_that_is_lost_ends_the_worker() -> None:
    """The error leaves `run`, so that the process ends and a new one takes over."""
    with Bench(BrokenDevice()) as bench:
        bench.open(1)
        bench.latent(1, 0, -1)
        with pytest.raises(RuntimeError, match="negative"):
            bench.run()


def test_whose_work_it_is_stands_in_the_ring_until_the_slot_is_free(bench: Bench) -> None:
    """From the launch until the worker knows that the server took the frames; sessions that only wait aren't there."""
    bench.open(1)
    bench.open(2)
    bench.latent(1, 0, 9)
    bench.latent(2, 1, 5)
    assert bench.ring.noted() == frozenset()
    while not isinstance(job := bench.worker.next_job(wait=False), ChunkJob):
        assert job is not None
        assert not isinstance(job, BatchJob), "nothing is searched"
        bench.worker.run(job)
    flight = bench.worker.run(job)
    assert bench.ring.noted() == {1}
    assert flight is not None
    bench.worker.complete(flight)
    assert bench.ring.noted() == {1}
    bench.worker.publish(flight)
    assert bench.ring.noted() == {1}
    bench.worker.apply(SlotReturned(slot=flight.slot, generation=flight.generation))
    assert bench.ring.noted() == frozenset()
    bench.run()
    assert bench.ring.noted() == {2}


def test_chunks_without_frames_and_those_that_failed_leave_no_note(bench: Bench) -> None:
    bench.open(1, model="late")
    bench.latent(1, 0, 9)
    bench.open(2, model="full")
    bench.latent(2, 1, 9)
    bench.run()
    assert bench.ring.noted() == frozenset()


def test_what_a_thread_is_at_stands_in_the_ring_and_stays_when_it_ends_the_worker() -> None:
    """An opening, and the message that asks for it."""
    seen: list[frozenset[int]] = []

    class Watched(FakeDecoder):
        spec = msgspec.structs.replace(FAKE_SPEC, name="watched")

        def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
            seen.append(own.ring.noted())
            return super().open(geometry, num_latents, first_latent=first_latent)

    with Bench(watched=Watched()) as own:
        own.open(5, model="watched")
        own.run()
        assert seen == [{5}]
        assert own.ring.noted() == frozenset()
        with pytest.raises(KeyError):
            own.open(6, model="none of ours")
        assert own.ring.noted() == {6}


def launch(bench: Bench) -> InFlight:
    """The next job is a chunk, and may begin."""
    job = bench.worker.next_job(wait=False)
    assert isinstance(job, ChunkJob)
    flight = bench.worker.run(job)
    assert flight is not None
    return flight


def open_next(bench: Bench) -> int:
    """The next job is an opening, and may begin; gives the session."""
    job = bench.worker.next_job(wait=False)
    assert isinstance(job, MoveJob)
    assert isinstance(job.move, Enter)
    bench.worker.run(job)
    return job.session


def publish(bench: Bench, flight: InFlight) -> None:
    bench.worker.complete(flight)
    bench.worker.publish(flight)


def give_back(bench: Bench, flight: InFlight) -> None:
    bench.worker.apply(SlotReturned(slot=flight.slot, generation=flight.generation))


def test_a_suspects_opening_waits_for_others_work_and_they_wait_with_it(bench: Bench) -> None:
    """Until the server has given the last slot back, the next worker's death would be blamed on both."""
    bench.open(1)
    bench.run()
    bench.latent(1, 0, 9)
    bench.latent(1, 1, 5)
    flight = launch(bench)
    bench.open(2, alone_until=0)
    bench.latent(1, 2, 5)
    assert bench.worker.next_job(wait=False) is None
    publish(bench, flight)
    assert bench.worker.next_job(wait=False) is None
    give_back(bench, flight)
    assert open_next(bench) == 2
    assert launch(bench).chunk.session == 1


def test_nothing_begins_beside_a_suspect_until_its_first_new_frame_is_published(bench: Bench) -> None:
    """Neither a chunk nor an opening; its own next chunk does. Frame 0 was known before."""
    for session in (1, 2):
        bench.open(session, alone_until=1 if session == 1 else None)
    bench.run()
    bench.latent(1, 0, 9)
    bench.latent(2, 1, 9)
    known = launch(bench)
    assert known.chunk.session == 1
    assert bench.worker.next_job(wait=False) is None
    bench.latent(1, 2, 5)
    new = launch(bench)
    assert new.chunk.session == 1
    publish(bench, known)
    give_back(bench, known)
    bench.open(3)
    assert bench.worker.next_job(wait=False) is None
    publish(bench, new)
    assert open_next(bench) == 3
    assert launch(bench).chunk.session == 2


def test_suspects_take_turns_in_the_order_of_service(bench: Bench) -> None:
    """One that has nothing to decode holds nobody up."""
    for session in (1, 2, 3):
        bench.open(session, alone_until=9)
    bench.run()
    for slot, session in enumerate((3, 2)):
        bench.latent(session, slot, 9)
    for session in (2, 3):
        flight = launch(bench)
        assert flight.chunk.session == session
        assert bench.worker.next_job(wait=False) is None
        publish(bench, flight)
        give_back(bench, flight)
    assert bench.worker.next_job(wait=False) is None


@pytest.mark.parametrize("ending", ["closed", "failed", "ended"])
def test_a_suspect_that_is_gone_holds_nobody_up(bench: Bench, ending: str) -> None:
    """Also where its last chunk gives no frame that is new; its slot is not returned."""
    bench.open(1, alone_until=9)
    bench.open(2)
    bench.run()
    bench.latent(1, 0, 9)
    if ending == "ended":
        bench.end(1)
    publish(bench, launch(bench))
    if ending == "failed":
        bench.latent(1, 2, -1)
        bench.run()
        assert isinstance(bench.sent[-1], SessionFailed)
    if ending == "closed":
        bench.worker.apply(CloseSession(session=1))
    bench.latent(2, 1, 9)
    assert launch(bench).chunk.session == 2
