import pytest

from framehaul_pipeline.scheduling.chunks import InletSlot, Scheduler, max_chunk_latents
from framehaul_pipeline.spec import DecoderSpec, Exactness
from tests.support.fake_decoder import fake_opening


def spec(*, first_frames: int = 1, lookahead: int = 0) -> DecoderSpec:
    return DecoderSpec(
        name="fake",
        channels=1,
        spatial_factor=2,
        temporal_factor=4,
        first_frames=first_frames,
        lookahead_latents=lookahead,
        exactness=Exactness.FULL,
        receptive_latents=None,
        state_bytes_per_pixel=0.0,
    )


def any_size(index: int, available: int, wanted: int, ended: bool) -> int:
    return min(available, wanted)


def pairs(index: int, available: int, wanted: int, ended: bool) -> int:
    """Two latents at a time, or what is left at the end."""
    return 2 if available >= 2 else available if ended else 0


def everyone(session: int) -> bool:
    return True


def add(scheduler: Scheduler, session: int, num_latents: int) -> None:
    for slot in range(num_latents):
        assert scheduler.add_latent(session, InletSlot(slot, 1))


def test_the_first_chunk_is_short_and_later_ones_are_full() -> None:
    """The first frame leaves soon; then chunks have the size that is good for throughput."""
    scheduler = Scheduler()
    scheduler.add_session(1, fake_opening(), spec=spec(), rule=any_size, max_latents=4, max_frames=99)
    add(scheduler, 1, 6)
    sizes = []
    while chunk := scheduler.pick(everyone, everyone):
        sizes.append((chunk.first_latent, len(chunk.latents), chunk.first_frame, chunk.num_frames, chunk.last))
    assert sizes == [(0, 1, 0, 1, False), (1, 4, 1, 16, False), (5, 1, 17, 4, False)]


def test_a_session_that_starts_in_the_middle_of_its_clip_has_the_clips_numbers() -> None:
    """No latent is the clip's first one, so each gives as many frames as every later one; its rule knows the place."""
    asked: list[int] = []

    def noting(index: int, available: int, wanted: int, ended: bool) -> int:
        asked.append(index)
        return any_size(index, available, wanted, ended)

    scheduler = Scheduler()
    scheduler.add_session(1, fake_opening(first_latent=7), spec=spec(), rule=noting, max_latents=4, max_frames=16)
    add(scheduler, 1, 6)
    scheduler.end(1)
    sizes = []
    while chunk := scheduler.pick(everyone, everyone):
        sizes.append((chunk.first_latent, len(chunk.latents), chunk.first_frame, chunk.num_frames, chunk.last))
    assert sizes == [(7, 1, 25, 4, False), (8, 4, 29, 16, False), (12, 1, 45, 4, True)]
    assert set(asked) == {7, 8, 12}


def test_the_last_chunk_closes_the_session_and_may_be_empty() -> None:
    """The end may come with the last latents or after them."""
    scheduler = Scheduler()
    scheduler.add_session(1, fake_opening(), spec=spec(), rule=any_size, max_latents=4, max_frames=99)
    add(scheduler, 1, 1)
    assert scheduler.pick(everyone, everyone) is not None
    assert scheduler.pick(everyone, everyone) is None
    scheduler.end(1)
    chunk = scheduler.pick(everyone, everyone)
    assert chunk is not None
    assert (chunk.latents, chunk.num_frames, chunk.last) == ((), 0, True)
    assert not scheduler.add_latent(1, InletSlot(0, 1)), "the session is closed"
    scheduler.end(1)


def test_frames_that_lookahead_held_back_come_with_the_last_chunk() -> None:
    """A decoder that looks ahead gives fewer frames at first and the rest at the end."""
    scheduler = Scheduler()
    scheduler.add_session(1, fake_opening(), spec=spec(lookahead=1), rule=any_size, max_latents=1, max_frames=99)
    add(scheduler, 1, 2)
    scheduler.end(1)
    chunks = [scheduler.pick(everyone, everyone), scheduler.pick(everyone, everyone)]
    assert [chunk.num_frames for chunk in chunks if chunk] == [0, 5]


def test_earlier_sessions_run_first_and_a_gap_is_filled() -> None:
    """A session that waits for latents doesn't hold up the next one, and goes on when they come."""
    scheduler = Scheduler()
    for session in (1, 2):
        scheduler.add_session(session, fake_opening(), spec=spec(), rule=any_size, max_latents=1, max_frames=99)
        add(scheduler, session, 1)
    picked = [
        chunk.session for chunk in (scheduler.pick(everyone, everyone), scheduler.pick(everyone, everyone)) if chunk
    ]
    add(scheduler, 2, 1)
    add(scheduler, 1, 1)
    picked += [
        chunk.session for chunk in (scheduler.pick(everyone, everyone), scheduler.pick(everyone, everyone)) if chunk
    ]
    assert picked == [1, 2, 1, 2]


def test_a_higher_priority_takes_over_at_a_chunk_boundary() -> None:
    """The session that arrived later with a higher priority is next."""
    scheduler = Scheduler()
    scheduler.add_session(1, fake_opening(), spec=spec(), rule=any_size, max_latents=1, max_frames=99)
    add(scheduler, 1, 3)
    first = scheduler.pick(everyone, everyone)
    scheduler.add_session(2, fake_opening(priority=1), spec=spec(), rule=any_size, max_latents=1, max_frames=99)
    add(scheduler, 2, 1)
    second, third = scheduler.pick(everyone, everyone), scheduler.pick(everyone, everyone)
    assert [chunk.session for chunk in (first, second, third) if chunk] == [1, 2, 1]


def test_the_decoders_partition_rule_decides() -> None:
    """A decoder that needs pairs waits for the second latent, except at the end."""
    scheduler = Scheduler()
    scheduler.add_session(1, fake_opening(), spec=spec(), rule=pairs, max_latents=4, max_frames=99)
    add(scheduler, 1, 3)
    chunk = scheduler.pick(everyone, everyone)
    assert chunk is not None
    assert len(chunk.latents) == 2
    assert scheduler.pick(everyone, everyone) is None
    scheduler.end(1)
    last = scheduler.pick(everyone, everyone)
    assert last is not None
    assert (len(last.latents), last.last) == (1, True)


def test_closing_gives_back_unused_inlet_slots() -> None:
    """And later latents of a closed session are refused."""
    scheduler = Scheduler()
    scheduler.add_session(1, fake_opening(), spec=spec(), rule=any_size, max_latents=1, max_frames=99)
    add(scheduler, 1, 2)
    assert scheduler.close(1) == (InletSlot(0, 1), InletSlot(1, 1))
    assert scheduler.close(1) == ()
    assert not scheduler.add_latent(1, InletSlot(2, 1))
    assert scheduler.pick(everyone, everyone) is None


def test_a_session_that_is_not_resident_is_passed_over() -> None:
    """And runs from where it was once it is back; it can run all the while."""
    scheduler = Scheduler()
    for session in (1, 2):
        scheduler.add_session(session, fake_opening(), spec=spec(), rule=any_size, max_latents=1, max_frames=99)
        add(scheduler, session, 1)
    chunk = scheduler.pick(lambda session: session != 1, everyone)
    assert chunk is not None
    assert chunk.session == 2
    assert scheduler.runnable(1)
    chunk = scheduler.pick(everyone, everyone)
    assert chunk is not None
    assert chunk.session == 1


def test_a_session_that_may_not_begin_keeps_its_turn() -> None:
    """Those behind it wait with it: else what they put on the device one after the other could keep it from it."""
    scheduler = Scheduler()
    for session in (1, 2, 3):
        scheduler.add_session(session, fake_opening(), spec=spec(), rule=any_size, max_latents=1, max_frames=99)
    for session in (2, 3):
        add(scheduler, session, 1)
    assert scheduler.pick(everyone, lambda session: session != 2) is None
    chunk = scheduler.pick(everyone, lambda session: session != 1)
    assert chunk is not None
    assert chunk.session == 2
    scheduler.end(2)
    assert scheduler.pick(everyone, lambda session: session != 2) is None
    last = scheduler.pick(everyone, everyone)
    assert last is not None
    assert (last.session, last.last) == (2, True)


def test_who_can_run() -> None:
    """A session with a chunk's latents, or with an end to tell; not one that waits, nor one that is closed."""
    scheduler = Scheduler()
    scheduler.add_session(1, fake_opening(), spec=spec(), rule=pairs, max_latents=4, max_frames=99)
    assert not scheduler.runnable(1)
    add(scheduler, 1, 1)
    assert not scheduler.runnable(1)
    add(scheduler, 1, 1)
    assert scheduler.runnable(1)
    assert scheduler.pick(everyone, everyone) is not None
    assert not scheduler.runnable(1)
    scheduler.end(1)
    assert scheduler.runnable(1)
    assert scheduler.pick(everyone, everyone) is not None
    assert not scheduler.runnable(1)


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
def test_a_chunks_frames_fit_a_slot(lookahead: int, max_frames: int, expected: list[tuple[int, int]]) -> None:
    """The fullest chunk that does is taken: latents and frames of each, for six latents whose end is known."""
    scheduler = Scheduler()
    decoder = spec(lookahead=lookahead)
    scheduler.add_session(1, fake_opening(), spec=decoder, rule=any_size, max_latents=4, max_frames=max_frames)
    add(scheduler, 1, 6)
    scheduler.end(1)
    chunks = []
    while chunk := scheduler.pick(everyone, everyone):
        chunks.append((len(chunk.latents), chunk.num_frames))
    assert chunks == expected
    assert all(num_frames <= max_frames for _, num_frames in chunks)


@pytest.mark.parametrize(
    ("frame_bytes", "lookahead", "expected"),
    [(12, 0, 1), (6, 0, 2), (3, 0, 4), (1, 0, 5), (6, 1, 2), (48, 0, 1)],
)
def test_how_many_latents_a_slot_has_room_for(frame_bytes: int, lookahead: int, expected: int) -> None:
    """A slot for one latent in a wide format has room for more in a narrow one; never more than asked for."""
    assert (
        max_chunk_latents(spec(lookahead=lookahead), frame_bytes=frame_bytes, slot_bytes=48, chunk_latents=5)
        == expected
    )


def test_planned_chunks_come_first_and_none_of_them_is_the_last() -> None:
    """As they were the first time: whatever the rule would like, however many latents wait, ended or not."""
    scheduler = Scheduler()
    opening = fake_opening(chunks=(1, 3, 2))
    scheduler.add_session(1, opening, spec=spec(lookahead=1), rule=pairs, max_latents=4, max_frames=99)
    add(scheduler, 1, 3)
    taken = [scheduler.pick(everyone, everyone)]
    assert scheduler.pick(everyone, everyone) is None
    add(scheduler, 1, 3)
    scheduler.end(1)
    taken += [scheduler.pick(everyone, everyone) for _ in range(3)]
    assert [len(chunk.latents) for chunk in taken if chunk] == [1, 3, 2, 0]
    assert [chunk.last for chunk in taken if chunk] == [False, False, False, True]
    assert [chunk.num_frames for chunk in taken if chunk] == [0, 9, 8, 4]


def test_a_chunk_tells_of_those_before_it_that_gave_no_frame() -> None:
    """So that the server, which hears of chunks with frames alone, knows how all latents were cut."""
    scheduler = Scheduler()
    scheduler.add_session(1, fake_opening(), spec=spec(lookahead=4), rule=any_size, max_latents=2, max_frames=99)
    add(scheduler, 1, 8)
    chunks = [chunk for _ in range(5) if (chunk := scheduler.pick(everyone, everyone))]
    assert [(chunk.num_frames > 0, chunk.sizes) for chunk in chunks] == [
        (False, (1,)),
        (False, (1, 2)),
        (True, (1, 2, 2)),
        (True, (2,)),
        (True, (1,)),
    ]


def test_what_is_on_the_device_counts_before_it_is_measured() -> None:
    """Tenants alternate, though none of their chunks has completed."""
    scheduler = Scheduler()
    for session, tenant in ((1, "a"), (2, "b")):
        opening = fake_opening(tenant=tenant)
        scheduler.add_session(session, opening, spec=spec(), rule=any_size, max_latents=1, max_frames=99)
        add(scheduler, session, 2)
    picked = [scheduler.pick(everyone, everyone) for _ in range(4)]
    assert [chunk.session for chunk in picked if chunk] == [1, 2, 1, 2]


def test_a_chunk_that_nobody_waits_for_comes_after_those_that_are_wanted() -> None:
    """It is decoded while nothing else is to do; a client always waits for the end. A closed session is fine."""
    scheduler = Scheduler()
    for session in (1, 2):
        scheduler.add_session(session, fake_opening(), spec=spec(), rule=any_size, max_latents=2, max_frames=99)
        add(scheduler, session, 5)
        scheduler.want(session, 1 if session == 1 else 3)
    scheduler.want(3, 1)
    order = []
    while chunk := scheduler.pick(everyone, everyone):
        order.append((chunk.session, chunk.first_latent))
    assert order == [(1, 0), (2, 0), (2, 1), (1, 1), (1, 3), (2, 3)]
    add(scheduler, 1, 1)
    scheduler.end(2)
    last = scheduler.pick(everyone, everyone)
    assert last is not None
    assert (last.session, last.last) == (2, True)
