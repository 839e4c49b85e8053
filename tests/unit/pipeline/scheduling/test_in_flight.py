from framehaul_pipeline.link.messages import RunningChunk
from framehaul_pipeline.scheduling.in_flight import Running


def test_an_idle_device_is_at_nothing() -> None:
    running = Running()
    assert running.oldest(5) is None
    running.begin(1, 0, 4, 10)
    running.finish(1, 0, 20)
    assert running.oldest(30) is None


def test_a_chunks_time_begins_when_the_one_before_it_is_done() -> None:
    running = Running()
    running.begin(1, 0, 4, 10)
    running.begin(2, 0, 1, 15)
    assert running.oldest(18) == RunningChunk(session=1, num_latents=4, busy_ns=8)
    running.finish(1, 0, 100)
    assert running.oldest(101) == RunningChunk(session=2, num_latents=1, busy_ns=1)


def test_an_opening_that_passes_a_running_chunk_leaves_that_ones_time_alone() -> None:
    running = Running()
    running.begin(1, 0, 4, 10)
    running.begin(2, None, 0, 11)
    running.finish(2, None, 50)
    assert running.oldest(60) == RunningChunk(session=1, num_latents=4, busy_ns=50)


def test_the_first_after_idleness_starts_its_own_time() -> None:
    running = Running()
    running.begin(1, None, 0, 10)
    running.finish(1, None, 11)
    running.begin(1, 0, 1, 1000)
    assert running.oldest(1001) == RunningChunk(session=1, num_latents=1, busy_ns=1)


def test_openings_are_not_chunks() -> None:
    running = Running()
    running.begin(1, None, 0, 10)
    assert (1 in running, running.num_chunks) == (False, 0)
    running.begin(2, 0, 4, 11)
    running.begin(2, 4, 4, 12)
    running.finish(2, 0, 13)
    assert (1 in running, 2 in running, running.num_chunks) == (False, True, 1)


def test_a_films_batch_takes_its_turn_and_is_no_chunk() -> None:
    running = Running()
    running.begin(1, 0, 4, 10)
    running.begin(5, None, 0, 12, num_samples=32, mapped=True)
    assert (5 in running, running.num_chunks) == (False, 1)
    running.finish(1, 0, 20)
    assert running.oldest(23) == RunningChunk(session=5, num_latents=0, num_samples=32, mapped=True, busy_ns=3)
