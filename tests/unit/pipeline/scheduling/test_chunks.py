import msgspec
import pytest

from framehaul_pipeline.scheduling.chunks import Chunk, InletSlot, NextChunk, Scheduler, max_chunk_latents
from framehaul_pipeline.spec import DecoderSpec
from tests.support.fake_decoder import FAKE_SPEC, fake_opening


def spec(lookahead: int = 0) -> DecoderSpec:
    return msgspec.structs.replace(FAKE_SPEC, temporal_factor=4, lookahead_latents=lookahead)


def any_size(index: int, available: int, wanted: int, ended: bool) -> int:
    return min(available, wanted)


def pairs(index: int, available: int, wanted: int, ended: bool) -> int:
    """Two latents at a time, or what is left at the end."""
    return 2 if available >= 2 else available if ended else 0


def everyone(session: int) -> bool:
    return True


class Bench:
    """A scheduler, and sessions of which latents are there."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()

    def open(
        self,
        session: int,
        num_latents: int = 0,
        *,
        lookahead: int = 0,
        rule: NextChunk = any_size,
        max_latents: int = 4,
        max_frames: int = 99,
        **asked: object,
    ) -> None:
        opening, decoder = fake_opening(**asked), spec(lookahead)
        self.scheduler.add_session(
            session, opening, spec=decoder, rule=rule, max_latents=max_latents, max_frames=max_frames
        )
        self.add(session, num_latents)

    def add(self, session: int, num_latents: int) -> None:
        for slot in range(num_latents):
            assert self.scheduler.add_latent(session, InletSlot(slot, 1))

    def pick(self, most: int = 99) -> list[Chunk]:
        """All chunks that there are now, up to so many."""
        chunks: list[Chunk] = []
        while len(chunks) < most and (chunk := self.scheduler.pick(everyone, everyone)):
            chunks.append(chunk)
        return chunks


@pytest.fixture
def bench() -> Bench:
    return Bench()


def parts(chunks: list[Chunk]) -> list[tuple[int, int, int, int, bool]]:
    """First latent, latents, first frame and frames of each, and whether it is the last."""
    return [
        (chunk.first_latent, len(chunk.latents), chunk.first_frame, chunk.num_frames, chunk.last) for chunk in chunks
    ]


def sessions(chunks: list[Chunk]) -> list[int]:
    return [chunk.session for chunk in chunks]


def test_the_first_chunk_is_short_and_later_ones_are_full(bench: Bench) -> None:
    """The first frame leaves soon; then chunks have the size that is good for throughput."""
    bench.open(1, 6)
    assert parts(bench.pick()) == [(0, 1, 0, 1, False), (1, 4, 1, 16, False), (5, 1, 17, 4, False)]


def test_a_session_that_starts_in_the_middle_of_its_clip_has_the_clips_numbers(bench: Bench) -> None:
    """No latent is the clip's first one, so each gives as many frames as every later one; its rule knows the place."""
    asked: list[int] = []

    def noting(index: int, available: int, wanted: int, ended: bool) -> int:
        asked.append(index)
        return any_size(index, available, wanted, ended)

    bench.open(1, 6, rule=noting, max_frames=16, first_latent=7)
    bench.scheduler.end(1)
    assert parts(bench.pick()) == [(7, 1, 25, 4, False), (8, 4, 29, 16, False), (12, 1, 45, 4, True)]
    assert set(asked) == {7, 8, 12}


def test_the_last_chunk_closes_the_session_and_may_be_empty(bench: Bench) -> None:
    """The end may come with the last latents or after them."""
    bench.open(1, 1)
    assert len(bench.pick()) == 1
    bench.scheduler.end(1)
    (chunk,) = bench.pick()
    assert (chunk.latents, chunk.num_frames, chunk.last) == ((), 0, True)
    assert not bench.scheduler.add_latent(1, InletSlot(0, 1)), "the session is closed"
    bench.scheduler.end(1)


def test_frames_that_lookahead_held_back_come_with_the_last_chunk(bench: Bench) -> None:
    """A decoder that looks ahead gives fewer frames at first and the rest at the end."""
    bench.open(1, 2, lookahead=1, max_latents=1)
    bench.scheduler.end(1)
    assert [chunk.num_frames for chunk in bench.pick()] == [0, 5]


def test_earlier_sessions_run_first_and_a_gap_is_filled(bench: Bench) -> None:
    """A session that waits for latents doesn't hold up the next one, and goes on when they come."""
    for session in (1, 2):
        bench.open(session, 1)
    assert sessions(bench.pick()) == [1, 2]
    bench.add(2, 1)
    bench.add(1, 1)
    assert sessions(bench.pick()) == [1, 2]


def test_a_higher_priority_takes_over_at_a_chunk_boundary(bench: Bench) -> None:
    """The session that arrived later with a higher priority is next."""
    bench.open(1, 3, max_latents=1)
    assert sessions(bench.pick(1)) == [1]
    bench.open(2, 1, priority=1)
    assert sessions(bench.pick(2)) == [2, 1]


def test_a_session_that_was_asked_for_earlier_goes_first(bench: Bench) -> None:
    """Though it came later, from another server; neither past a higher priority nor in another tenant's share."""
    bench.open(1, 2, max_latents=1, asked_ns=20, tenant="a")
    bench.open(2, 1, priority=1, asked_ns=30, tenant="a")
    bench.open(3, 2, max_latents=1, asked_ns=-10, tenant="a")
    bench.open(4, 2, max_latents=1, asked_ns=20, tenant="a")
    assert sessions(bench.pick()) == [2, 3, 3, 1, 1, 4, 4]
    bench.open(5, 1, asked_ns=40, tenant="b")
    bench.add(3, 1)
    bench.scheduler.charge(Chunk(1, 0, (InletSlot(0, 1),), 0, 1, False, tenant="a"), 1000)
    assert sessions(bench.pick()) == [5, 3]


def test_the_decoders_partition_rule_decides(bench: Bench) -> None:
    """A decoder that needs pairs waits for the second latent, except at the end."""
    bench.open(1, 3, rule=pairs)
    assert [len(chunk.latents) for chunk in bench.pick()] == [2]
    bench.scheduler.end(1)
    assert [(len(chunk.latents), chunk.last) for chunk in bench.pick()] == [(1, True)]


def test_closing_gives_back_unused_inlet_slots(bench: Bench) -> None:
    """And later latents of a closed session are refused."""
    bench.open(1, 2)
    assert bench.scheduler.close(1) == (InletSlot(0, 1), InletSlot(1, 1))
    assert bench.scheduler.close(1) == ()
    assert not bench.scheduler.add_latent(1, InletSlot(2, 1))
    assert bench.pick() == []


def test_a_session_that_is_not_resident_is_passed_over(bench: Bench) -> None:
    """And runs from where it was once it is back; it can run all the while."""
    for session in (1, 2):
        bench.open(session, 1)
    chunk = bench.scheduler.pick(lambda session: session != 1, everyone)
    assert chunk is not None
    assert chunk.session == 2
    assert bench.scheduler.runnable(1)
    assert sessions(bench.pick()) == [1]


def test_a_session_that_may_not_begin_keeps_its_turn(bench: Bench) -> None:
    """Those behind it wait with it: else what they put on the device one after the other could keep it from it."""
    for session, num_latents in ((1, 0), (2, 1), (3, 1)):
        bench.open(session, num_latents)
    assert bench.scheduler.pick(everyone, lambda session: session != 2) is None
    chunk = bench.scheduler.pick(everyone, lambda session: session != 1)
    assert chunk is not None
    assert chunk.session == 2
    bench.scheduler.end(2)
    assert bench.scheduler.pick(everyone, lambda session: session != 2) is None
    (last,) = bench.pick(1)
    assert (last.session, last.last) == (2, True)


def test_who_can_run(bench: Bench) -> None:
    """A session with a chunk's latents, or with an end to tell; not one that waits, nor one that is closed."""
    bench.open(1, rule=pairs)
    for _ in range(2):
        assert not bench.scheduler.runnable(1)
        bench.add(1, 1)
    assert bench.scheduler.runnable(1)
    assert len(bench.pick()) == 1
    assert not bench.scheduler.runnable(1)
    bench.scheduler.end(1)
    assert bench.scheduler.runnable(1)
    assert len(bench.pick()) == 1
    assert not bench.scheduler.runnable(1)


@pytest.mark.parametrize(
    ("lookahead", "max_frames", "expected"),
    [
        # The last chunk is 1 shorter where the latent held back must fit as well.
        (1, 8, [(1, 0), (2, 5), (2, 8), (1, 8)]),
        (1, 16, [(1, 0), (4, 13), (1, 8)]),
        (0, 8, [(1, 1), (2, 8), (2, 8), (1, 4)]),
        (0, 7, [(1, 1), (1, 4), (1, 4), (1, 4), (1, 4), (1, 4)]),
    ],
)
def test_a_chunks_frames_fit_a_slot(
    bench: Bench, lookahead: int, max_frames: int, expected: list[tuple[int, int]]
) -> None:
    """The fullest chunk that does is taken: latents and frames of each, for six latents whose end is known."""
    bench.open(1, 6, lookahead=lookahead, max_frames=max_frames)
    bench.scheduler.end(1)
    chunks = [(len(chunk.latents), chunk.num_frames) for chunk in bench.pick()]
    assert chunks == expected
    assert all(num_frames <= max_frames for _, num_frames in chunks)


@pytest.mark.parametrize(
    ("frame_bytes", "lookahead", "expected"),
    [(12, 0, 1), (6, 0, 2), (3, 0, 4), (1, 0, 5), (6, 1, 2), (48, 0, 1)],
)
def test_how_many_latents_a_slot_has_room_for(frame_bytes: int, lookahead: int, expected: int) -> None:
    """A slot for one latent in a wide format has room for more in a narrow one; never more than asked for."""
    assert max_chunk_latents(spec(lookahead), frame_bytes=frame_bytes, slot_bytes=48, chunk_latents=5) == expected


def test_planned_chunks_come_first_and_none_of_them_is_the_last(bench: Bench) -> None:
    """As they were the first time: whatever the rule would like, however many latents wait, ended or not."""
    bench.open(1, 3, lookahead=1, rule=pairs, chunks=(1, 3, 2))
    chunks = bench.pick()
    assert len(chunks) == 1
    bench.add(1, 3)
    bench.scheduler.end(1)
    chunks += bench.pick()
    found = [(len(chunk.latents), chunk.last, chunk.num_frames) for chunk in chunks]
    assert found == [(1, False, 0), (3, False, 9), (2, False, 8), (0, True, 4)]


def test_a_chunk_tells_of_those_before_it_that_gave_no_frame(bench: Bench) -> None:
    """So that the server, which hears of chunks with frames alone, knows how all latents were cut."""
    bench.open(1, 8, lookahead=4, max_latents=2)
    assert [(chunk.num_frames > 0, chunk.sizes) for chunk in bench.pick()] == [
        (False, (1,)),
        (False, (1, 2)),
        (True, (1, 2, 2)),
        (True, (2,)),
        (True, (1,)),
    ]


def test_what_is_on_the_device_counts_before_it_is_measured(bench: Bench) -> None:
    """Tenants alternate, though none of their chunks has completed."""
    for session, tenant in ((1, "a"), (2, "b")):
        bench.open(session, 2, max_latents=1, tenant=tenant)
    assert sessions(bench.pick()) == [1, 2, 1, 2]


def test_a_chunk_that_nobody_waits_for_comes_after_those_that_are_wanted(bench: Bench) -> None:
    """It is decoded while nothing else is to do; a client always waits for the end. A closed session is fine."""
    for session in (1, 2):
        bench.open(session, 5, max_latents=2)
        bench.scheduler.want(session, 1 if session == 1 else 3)
    bench.scheduler.want(3, 1)
    order = [(chunk.session, chunk.first_latent) for chunk in bench.pick()]
    assert order == [(1, 0), (2, 0), (2, 1), (1, 1), (1, 3), (2, 3)]
    bench.add(1, 1)
    bench.scheduler.end(2)
    (last,) = bench.pick(1)
    assert (last.session, last.last) == (2, True)
