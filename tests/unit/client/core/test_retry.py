import pytest

from framehaul_client.core.retry import Retry
from framehaul_client.errors import (
    ConnectionLost,
    DataLoss,
    FramehaulError,
    GaveUp,
    InvalidRequest,
    NotFound,
    Refused,
    ServerUnavailable,
    SessionDamaged,
)

LOST = ConnectionLost("host: socket closed")


def delays(retry: Retry, *, until_s: float) -> list[float]:
    """The pauses of a server that stays away, on a clock that they move."""
    now_s, found = 100.0, []
    while now_s < 100.0 + until_s:
        found.append(retry.delay_s(LOST, now_s, opened=True))
        now_s += found[-1]
    return found


def test_pauses_grow_to_a_limit_and_end_with_the_time() -> None:
    """The last one is cut, so that one attempt is made when the time is over."""
    found = delays(Retry(7.0, jitter=lambda: 0.0), until_s=7.0)
    assert found == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 1.9])


def test_up_to_half_of_a_pause_is_random() -> None:
    """Clients that were cut off together come back apart."""
    assert Retry(60.0, jitter=lambda: 1.0).delay_s(LOST, 0.0, opened=True) == pytest.approx(0.05)


def test_giving_up_says_why_and_after_how_long() -> None:
    """The last reason, and the time that was allowed."""
    retry = Retry(2.5)
    retry.delay_s(LOST, 10.0, opened=True)
    with pytest.raises(GaveUp, match=r"socket closed \(gave up after 2\.5 s\)"):
        retry.delay_s(LOST, 12.5, opened=True)


def test_progress_starts_the_time_anew() -> None:
    """A session that goes on between its losses may have as many as it likes."""
    retry = Retry(2.0, jitter=lambda: 0.0)
    for now_s in (0.0, 1.9, 3.8, 5.7):
        assert retry.delay_s(LOST, now_s, opened=True) == pytest.approx(0.1)
        retry.progressed()


@pytest.mark.parametrize(
    "error", [InvalidRequest("no"), NotFound("no"), DataLoss("no"), Refused("full", None), FramehaulError("no")]
)
def test_what_would_fail_again_is_not_tried_again(error: FramehaulError) -> None:
    """The error itself comes out."""
    with pytest.raises(type(error)) as caught:
        Retry(60.0).delay_s(error, 0.0, opened=True)
    assert caught.value is error


def test_a_full_server_says_when_to_come_back() -> None:
    """Its wish counts when it is longer; a session that was never opened doesn't insist."""
    full = Refused("full", 1.5)
    assert Retry(60.0, jitter=lambda: 0.0).delay_s(full, 0.0, opened=True) == pytest.approx(1.5)
    with pytest.raises(Refused):
        Retry(60.0).delay_s(full, 0.0, opened=False)


def test_damage_at_the_server_is_worth_a_new_session_but_not_a_second_first_one() -> None:
    """What a first session's latents met with, they would meet with again."""
    damaged = SessionDamaged("frames differ")
    assert Retry(60.0, jitter=lambda: 0.0).delay_s(damaged, 0.0, opened=True) == pytest.approx(0.1)
    with pytest.raises(SessionDamaged):
        Retry(60.0).delay_s(damaged, 0.0, opened=False)


def test_who_gives_up_keeps_the_servers_reason() -> None:
    damaged = SessionDamaged("frames differ")
    damaged.reason = "REPLAY_DIFFERS"
    retry = Retry(1.0)
    retry.delay_s(damaged, 0.0, opened=True)
    with pytest.raises(GaveUp) as caught:
        retry.delay_s(damaged, 1.0, opened=True)
    assert caught.value.reason == "REPLAY_DIFFERS"


def test_a_first_session_fails_with_the_reason_itself() -> None:
    """There is nothing to give up yet: the server was never there."""
    away = ServerUnavailable("host: draining")
    retry = Retry(1.0)
    retry.delay_s(away, 0.0, opened=False)
    with pytest.raises(ServerUnavailable) as caught:
        retry.delay_s(away, 1.0, opened=False)
    assert caught.value is away


def test_nothing_is_tried_again_when_that_is_not_wanted() -> None:
    """`--retry-for 0`."""
    with pytest.raises(ConnectionLost) as caught:
        Retry(0.0).delay_s(LOST, 0.0, opened=True)
    assert caught.value is LOST
