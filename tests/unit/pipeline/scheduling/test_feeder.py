from framehaul_pipeline.scheduling.feeder import Feeder, NextLatent
from tests.support.fake_decoder import fake_opening

LATENTS = [memoryview(bytes([index])) for index in range(16)]


def fill(feeder: Feeder, session: int, *, num_latents: int = 8, allowed: int = 8, **asked: object) -> None:
    feeder.add_session(session, fake_opening(**asked))
    for latent in LATENTS[:num_latents]:
        feeder.enqueue(session, latent)
    feeder.allow(session, allowed, 0)


def test_latents_go_in_order_and_only_inside_the_window() -> None:
    """Latents whose frames don't fit the window hold no inlet slot."""
    feeder = Feeder(chunk_latents=2, num_slots=12)
    fill(feeder, 1, allowed=2)
    assert feeder.next_latent(9) == NextLatent(1, 0, LATENTS[0])
    assert feeder.next_latent(9) == NextLatent(1, 1, LATENTS[1])
    assert feeder.next_latent(9) is None


def test_a_session_that_starts_in_the_middle_of_its_clip_has_the_clips_numbers() -> None:
    """Also where less is allowed than was before: what was allowed once stays so."""
    feeder = Feeder(chunk_latents=2, num_slots=12)
    feeder.add_session(1, fake_opening(first_latent=7))
    for latent in LATENTS[7:10]:
        feeder.enqueue(1, latent)
    for num_allowed in (7, 8, 0):
        feeder.allow(1, num_allowed, 0)
    assert feeder.next_latent(9) == NextLatent(1, 7, LATENTS[7])
    assert feeder.next_latent(9) is None


def test_a_session_holds_at_most_its_share() -> None:
    """Half of the inlet, and more when slots come back."""
    feeder = Feeder(chunk_latents=1, num_slots=4)
    fill(feeder, 1)
    assert [feeder.next_latent(9) is not None for _ in range(3)] == [True, True, False]
    feeder.returned(1)
    assert feeder.next_latent(9) == NextLatent(1, 2, LATENTS[2])


def test_blanks_weigh_what_latents_do() -> None:
    """They have no bytes of their own; what a tenant has in the inlet is counted out as it was counted in."""
    feeder = Feeder(chunk_latents=1, num_slots=12)
    for session, tenant in ((1, "draining"), (2, "other")):
        feeder.add_session(session, fake_opening(tenant=tenant))
        feeder.allow(session, 8, 0)
    for latent in (LATENTS[0], memoryview(b""), memoryview(b"")):
        feeder.enqueue(1, latent)
    assert all(feeder.next_latent(9) is not None for _ in range(3))
    for _ in range(3):
        feeder.returned(1)
    feeder.enqueue(1, LATENTS[3])
    feeder.enqueue(2, LATENTS[0])
    first = feeder.next_latent(9)
    assert first == NextLatent(1, 3, LATENTS[3]), "nothing of it is in the inlet, and it came first"


def test_the_first_session_always_finds_room_for_a_chunk() -> None:
    """Later sessions leave enough free slots, whether the first one wants them now or not."""
    feeder = Feeder(chunk_latents=2, num_slots=12)
    fill(feeder, 1, allowed=0)
    fill(feeder, 2)
    assert feeder.next_latent(2) is None
    assert feeder.next_latent(3) == NextLatent(2, 0, LATENTS[0])
    feeder.allow(1, 8, 0)
    assert feeder.next_latent(1) == NextLatent(1, 0, LATENTS[0])
    assert feeder.next_latent(0) is None


def test_the_last_chunks_slots_are_for_who_has_nothing_in_the_inlet() -> None:
    """A new tenant, or a higher priority, finds a place at once, however many sessions others have."""
    feeder = Feeder(chunk_latents=2, num_slots=12)
    fill(feeder, 1)
    fill(feeder, 2)
    assert [feeder.next_latent(num_free) is not None for num_free in range(12, 1, -1)] == [True] * 10 + [False]
    fill(feeder, 3, tenant="new", num_latents=1)
    assert feeder.next_latent(2) == NextLatent(3, 0, LATENTS[0])
    fill(feeder, 4, priority=1)
    assert feeder.next_latent(1) == NextLatent(4, 0, LATENTS[0])


def test_a_tenant_leaves_room_for_one_whose_turn_it_is() -> None:
    """That has nothing to send just now; three chunks keep the device busy meanwhile, unless all are parts."""
    for num_latents, expected in ((8, 6), (1, 8)):
        feeder = Feeder(chunk_latents=2, num_slots=20)
        feeder.add_session(1, fake_opening(tenant="quiet"))
        for session in range(2, 10):
            fill(feeder, session, tenant="busy", num_latents=num_latents)
        assert sum(feeder.next_latent(20 - index) is not None for index in range(18)) == expected


def test_parts_of_chunks_never_fill_the_inlet() -> None:
    """Sessions whose decoders wait for whole chunks: the first always gets one together, and then slots come back."""
    feeder = Feeder(chunk_latents=3, num_slots=18)
    for session in range(1, 12):
        fill(feeder, session, tenant=str(session % 3), num_latents=2)
    free = 18
    while feeder.next_latent(free) is not None:
        free -= 1
    feeder.enqueue(1, LATENTS[2])
    assert feeder.next_latent(free) == NextLatent(1, 2, LATENTS[2])


def test_priority_comes_before_arrival() -> None:
    """A higher priority is fed first."""
    feeder = Feeder(chunk_latents=2, num_slots=12)
    fill(feeder, 1)
    fill(feeder, 2, priority=5)
    latent = feeder.next_latent(9)
    assert latent is not None
    assert latent.session == 2


def test_a_session_that_was_asked_for_earlier_is_fed_first() -> None:
    """Though it came later; the inlet's last slots stay with the one that came first."""
    feeder = Feeder(chunk_latents=2, num_slots=12)
    fill(feeder, 1, asked_ns=20)
    fill(feeder, 2, asked_ns=-10)
    assert [feeder.next_latent(9), feeder.next_latent(1)] == [
        NextLatent(2, 0, LATENTS[0]),
        NextLatent(1, 0, LATENTS[0]),
    ]


def test_the_end_follows_the_last_latent_once() -> None:
    """The worker hears that a session ends when it has had all its latents."""
    feeder = Feeder(chunk_latents=2, num_slots=12)
    fill(feeder, 1, num_latents=1)
    feeder.end(1)
    assert feeder.next_end() is None
    feeder.next_latent(9)
    assert feeder.next_end() == 1
    assert feeder.next_end() is None


def test_a_dropped_session_is_forgotten() -> None:
    """Dropping twice, a slot that comes back late, and what it is told afterwards, change nothing."""
    feeder = Feeder(chunk_latents=2, num_slots=12)
    fill(feeder, 1)
    feeder.next_latent(9)
    feeder.drop_session(1)
    feeder.drop_session(1)
    feeder.returned(1)
    feeder.enqueue(1, LATENTS[8])
    feeder.allow(1, 16, 0)
    feeder.end(1)
    assert feeder.next_latent(9) is None
    assert feeder.next_end() is None


def test_what_a_dropped_session_had_in_the_inlet_counts_no_more() -> None:
    """Against its tenant, which is fed before one that has a chunk on the way."""
    feeder = Feeder(chunk_latents=1, num_slots=12)
    fill(feeder, 1, tenant="a")
    assert [feeder.next_latent(12 - index) is not None for index in range(3)] == [True] * 3
    fill(feeder, 2, tenant="b", num_latents=1)
    assert feeder.next_latent(9) == NextLatent(2, 0, LATENTS[0])
    feeder.drop_session(1)
    fill(feeder, 3, tenant="a")
    fill(feeder, 4, tenant="b")
    assert feeder.next_latent(8) == NextLatent(3, 0, LATENTS[0])
    latent = feeder.next_latent(7)
    assert latent is not None
    assert latent.session == 3  # both have one on the way, and it came first
    assert feeder.next_latent(6) == NextLatent(4, 0, LATENTS[0])


def test_who_waits_for_frames_comes_before_who_has_them_waiting() -> None:
    """Of equal priority and share; who is ahead goes on while nobody waits."""
    feeder = Feeder(chunk_latents=2, num_slots=20)
    for session, num_wanted in ((1, 0), (2, 2)):
        fill(feeder, session)
        feeder.allow(session, 8, num_wanted)
    fed = [feeder.next_latent(20) for _ in range(6)]
    assert [latent.session for latent in fed if latent is not None] == [2, 2, 1, 1, 1, 1]


def test_the_worker_hears_which_chunks_are_wanted_when_that_has_changed() -> None:
    """Those that are wanted whole: of four latents, chunks of two that begin with the first three."""
    feeder = Feeder(chunk_latents=2, num_slots=12)
    feeder.add_session(1, fake_opening())
    assert [feeder.allow(1, 8, num_wanted) for num_wanted in (4, 4, 6, 0)] == [3, None, 5, -1]
