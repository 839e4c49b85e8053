import pytest

from framehaul_pipeline.config import PAGE_BYTES, WorkerConfig
from framehaul_pipeline.scheduling.memory import (
    PIN_PAGES,
    Enter,
    MemoryLimits,
    Move,
    Park,
    Pin,
    Restore,
    SessionMemory,
    default_park_bytes,
)

GIB = 1 << 30


def memory(device: int | None, host: int = 0) -> SessionMemory:
    return SessionMemory(device_bytes=device, park_bytes=host, page_bytes=1)


def admit(table: SessionMemory, session: int, state: int, *, workspace: int = 0, priority: int = 0) -> str | None:
    return table.admit(session, priority=priority, state_bytes=state, workspace_bytes=workspace)


def moves(table: SessionMemory, runnable: set[int] | None = None, in_flight: tuple[int, ...] = ()) -> list[Move]:
    """All moves that can be made now; pages are made, copies don't end."""
    made: list[Move] = []
    while move := table.next_move(runnable=(runnable or set()).__contains__, in_flight=in_flight):
        made.append(move)
        if isinstance(move, Pin):
            table.pinned(move.num_pages)
    return made


def test_sessions_are_let_in_until_the_device_is_full() -> None:
    """The largest workspace counts once; who doesn't fit hears what it needs, what is used and what there is."""
    table = SessionMemory(device_bytes=10 * GIB, park_bytes=0, page_bytes=GIB // 4)
    for session, workspace in ((1, GIB), (2, 2 * GIB)):
        assert admit(table, session, 4 * GIB, workspace=workspace) is None
    assert moves(table) == [Enter(1), Enter(2)]
    assert (table.used_bytes, table.total_bytes) == (10 * GIB, 10 * GIB)
    assert admit(table, 3, GIB // 8, workspace=2 * GIB) == (
        "device memory is full: a session of this size needs 0.25 GiB for its state and 2.00 GiB to decode; "
        "2 sessions use 10.00 GiB of 10.00 GiB, and 0 are parked in 0.00 GiB of 0.00 GiB"
    )
    table.close(2)
    table.close(2)
    assert admit(table, 4, GIB // 8, workspace=2 * GIB) is None


def test_without_a_limit_everyone_is_let_in() -> None:
    """And a device that is full all the same says what was needed."""
    table = memory(None)
    assert admit(table, 1, 1 << 50) is None
    assert moves(table) == [Enter(1)]
    assert table.total_bytes == 0
    assert table.describe(1).startswith("device memory is full: a session of this size needs 1048576.00 GiB")
    assert table.describe(2) == "device memory is full"


def test_the_one_that_ran_longest_ago_is_parked_and_comes_back() -> None:
    """For a newcomer: pages are made, the state is copied out; before its next chunk it is copied back."""
    table = memory(4, host=6)
    for session in (1, 2):
        assert admit(table, session, 2) is None
    assert moves(table) == [Enter(1), Enter(2)]
    table.ran(1)
    table.ran(2)
    table.ran(1)
    assert admit(table, 3, 2) is None
    assert moves(table) == [Pin(6, 3), Park(2, (5, 4))]
    assert not table.resident(2)
    assert not table.resident(3)
    table.moved(2)
    assert table.num_parked == 1
    assert moves(table) == [Enter(3)]
    assert moves(table, {1, 2}) == [Park(3, (3, 2))]
    table.moved(3)
    assert moves(table, {1, 2}) == [Restore(2, (5, 4))]
    assert not table.resident(2)
    table.moved(2)
    assert table.resident(2)
    assert table.num_parked == 1


def test_those_that_run_or_are_in_flight_stay() -> None:
    """The newcomer waits until one stands still."""
    table = memory(2, host=2)
    for session in (1, 2, 3):
        assert admit(table, session, 1) is None
    assert moves(table, {1}, in_flight=(2,)) == [Enter(1), Enter(2)]
    assert moves(table, {1, 2}) == []
    assert moves(table, {1}) == [Pin(2, 3), Park(2, (1,))]
    assert moves(table, {1}) == []


def test_a_higher_priority_takes_the_place_of_one_that_runs() -> None:
    """Those that stand still go first; then the lowest priority."""
    table = memory(3, host=3)
    for session, priority in ((1, 0), (2, 1), (3, 2)):
        assert admit(table, session, 1, priority=priority) is None
    assert moves(table) == [Enter(3), Enter(2), Enter(1)]
    assert admit(table, 4, 1, priority=3) is None
    assert moves(table, {1, 2, 3}) == [Pin(3, 4), Park(1, (2,))]
    assert admit(table, 5, 1, priority=3) is None
    table.moved(1)
    assert moves(table, {1, 2, 3, 4}) == [Enter(4), Park(2, (1,))]


def test_nobody_is_parked_if_that_makes_too_little_room() -> None:
    """A large session waits whole, and smaller ones keep their place meanwhile."""
    table = memory(4, host=12)
    for session, state in ((1, 2), (2, 2), (3, 4)):
        assert admit(table, session, state) is None
    assert moves(table, {1}) == [Enter(1), Enter(2)]
    assert moves(table, set()) == [Pin(8, 3), Park(1, (7, 6)), Park(2, (5, 4))]


def test_pages_are_made_a_few_at_a_time() -> None:
    """Making them takes the launch thread's time."""
    table = memory(2 * PIN_PAGES, host=4 * PIN_PAGES)
    for session in (1, 2):
        assert admit(table, session, 2 * PIN_PAGES) is None
    assert moves(table)[:3] == [Enter(1), Pin(PIN_PAGES, 2), Pin(PIN_PAGES, 2)]


def test_swapping_needs_a_free_place_on_the_host() -> None:
    """Equal sessions: as many as both sides hold, less one; none more is let in."""
    table = memory(4, host=4)
    for session in (1, 2, 3):
        assert admit(table, session, 2) is None
    assert admit(table, 4, 2) is not None
    assert admit(table, 5, 1) is not None


def test_one_that_is_larger_than_the_device_is_refused() -> None:
    """Whatever the host has."""
    assert admit(memory(4, host=100), 1, 5) is not None
    assert admit(memory(4, host=100), 1, 3, workspace=2) is not None


def test_closing_frees_both_sides_once_a_copy_is_done() -> None:
    """A parked session's pages at once; while its state is being copied, its memory is still in use."""
    table = memory(2, host=4)
    for session in (1, 2):
        assert admit(table, session, 2) is None
    assert moves(table) == [Enter(1), Pin(4, 2), Park(1, (3, 2))]
    table.close(1)
    assert table.used_bytes == 2
    assert moves(table) == []
    table.moved(1)
    assert moves(table) == [Enter(2)]
    assert admit(table, 3, 2) is None
    assert moves(table) == [Park(2, (2, 3))]
    table.moved(2)
    table.close(2)
    assert moves(table) == [Enter(3)]
    assert (table.used_bytes, table.num_parked) == (2, 0)


def test_a_host_that_gives_no_more_pages() -> None:
    """What it gave is the limit from then on, and nobody is parked beyond it."""
    table = memory(2, host=4)
    for session in (1, 2):
        assert admit(table, session, 2) is None
    assert table.next_move(runnable=bool, in_flight=()) == Enter(1)
    assert isinstance(table.next_move(runnable=lambda session: False, in_flight=()), Pin)
    table.cannot_pin()
    assert table.next_move(runnable=lambda session: False, in_flight=()) is None
    table.close(2)
    assert admit(table, 3, 2) is not None


@pytest.mark.parametrize(
    ("limit", "free", "total"),
    [
        (None, None, None),
        (5 * GIB, None, 5 * GIB),
        (None, 80 * GIB, 79 * GIB),
        (None, 5 * GIB, 5 * GIB - 5 * GIB // 10),
        (2 * GIB, 80 * GIB, 2 * GIB),
        (90 * GIB, 80 * GIB, 79 * GIB),
    ],
)
def test_what_sessions_get_of_a_device(limit: int | None, free: int | None, total: int | None) -> None:
    """What is asked for, and never more than is free less a reserve."""
    assert MemoryLimits(device_bytes=limit).device_total(free) == total


def test_host_memory_for_parking_by_default() -> None:
    """A quarter, up to 16 GiB."""
    assert [default_park_bytes(gib * GIB) // GIB for gib in (8, 64, 512)] == [2, 16, 16]


@pytest.mark.parametrize(
    ("park", "own_memory", "park_gib", "page"),
    [
        (None, True, 8, PAGE_BYTES),
        (None, False, 0, 1 << 20),
        (0, True, 0, PAGE_BYTES),
        (3 * GIB, False, 3, PAGE_BYTES),
    ],
)
def test_a_workers_limits_follow_its_device(park: int | None, *, own_memory: bool, park_gib: int, page: int) -> None:
    """Where nothing is parked, on the CPU unless it is asked for, pages are small."""
    config = WorkerConfig(device_memory_bytes=GIB, park_bytes=park)
    limits = MemoryLimits.of(config, own_memory=own_memory, host_bytes=32 * GIB)
    assert limits == MemoryLimits(device_bytes=GIB, park_bytes=park_gib * GIB, page_bytes=page)


@pytest.mark.parametrize("host", [0, 5, 10, 14, 25, 40])
@pytest.mark.parametrize("device", [0, 4, 5, 17])
@pytest.mark.parametrize("state", [1, 5, 9])
def test_as_many_alike_fit_as_are_let_in(device: int, host: int, state: int) -> None:
    """What is told beforehand is what is admitted, when decoding takes nothing beside the states."""
    limits = MemoryLimits(park_bytes=host, page_bytes=2)
    table = SessionMemory(device_bytes=device, park_bytes=host, page_bytes=2)
    num_let_in = 0
    while admit(table, num_let_in, state) is None:
        num_let_in += 1
    assert sum(limits.most_alike(device, state)) == num_let_in
