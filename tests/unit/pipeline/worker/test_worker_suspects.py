"""The worker on the CPU device, one call at a time: sessions that an earlier worker died at work for."""

from collections.abc import Iterator

import pytest

from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.link.messages import CloseSession, EndOfLatents, SessionFailed, SlotReturned
from framehaul_pipeline.scheduling.memory import Enter
from framehaul_pipeline.worker.jobs import ChunkJob, MoveJob
from framehaul_pipeline.worker.launch import InFlight
from tests.unit.pipeline.worker.test_worker import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(CpuDevice())
    yield bench
    bench.close()


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
        bench.worker.apply(EndOfLatents(session=1))
    publish(bench, launch(bench))
    if ending == "failed":
        bench.latent(1, 2, -1)
        bench.run()
        assert isinstance(bench.sent[-1], SessionFailed)
    if ending == "closed":
        bench.worker.apply(CloseSession(session=1))
    bench.latent(2, 1, 9)
    assert launch(bench).chunk.session == 2
