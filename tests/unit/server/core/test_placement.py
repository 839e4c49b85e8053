import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import NotFound, Unavailable
from framehaul_server.core.placement import FRESH_S, GONE_S, HOLD_S, Placement
from framehaul_server.core.session_id import new_session_id
from tests.support.placing import ask, report


def table(*reports: tuple[str, pb.ServerInfo]) -> Placement:
    placement = Placement()
    for target, info in reports:
        placement.report(target, info, 0.0)
    return placement


def test_the_least_used_server_is_named_and_the_others_in_order() -> None:
    placement = table(("a", report(1, sessions=3)), ("b", report(2, sessions=1)), ("c", report(3, sessions=2)))
    found = placement.locate(ask(), "film", 1.0)
    assert (found.target, found.epoch, found.lease_ms) == ("b", 2, HOLD_S * 1000)
    assert list(found.alternatives) == ["c", "a"]


def test_a_session_that_would_wait_is_told_so() -> None:
    """Counting those that were sent there a moment ago."""
    placement = table(("a", report(1, sessions=8)), ("b", report(2, sessions=10)))
    found = [placement.locate(ask(), "film", 1.0) for _ in range(3)]
    assert [(each.target, each.has_place) for each in found] == [("a", True), ("a", True), ("b", False)]


def test_a_burst_spreads_before_the_next_reports() -> None:
    """An answer counts as a session for a moment, and no longer."""
    placement = table(("a", report(1)), ("b", report(2)))
    assert sorted(placement.locate(ask(), "film", 0.0).target for _ in range(8)) == ["a"] * 4 + ["b"] * 4
    placement.report("a", report(1, sessions=1), HOLD_S)
    placement.report("b", report(2), HOLD_S)
    assert placement.locate(ask(), "film", HOLD_S).target == "b"


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        pytest.param({"memory": (100, 90)}, {"memory": (100, 30), "sessions": 9}, id="its state doesn't fit"),
        pytest.param({"sessions": 10}, {"sessions": 9, "memory": (100, 30)}, id="no place"),
        pytest.param({"sessions": 10, "queued": 4}, {"sessions": 10, "queued": 3}, id="no place in the queue"),
        pytest.param({"max_pixels": 639}, {"sessions": 9}, id="frames are too large"),
        pytest.param({"sessions": 2}, {"sessions": 1}, id="more sessions"),
        pytest.param({"queued": 2}, {"sessions": 1}, id="more of them queued"),
        pytest.param({"memory": (100, 30)}, {"sessions": 2}, id="more memory in use than places"),
        pytest.param({"memory": (1000, 1 << 63)}, {"sessions": 9}, id="more memory in use than there is"),
    ],
)
def test_what_is_better_comes_first(worse: dict[str, object], better: dict[str, object]) -> None:
    """Room for the state, a place, and then the smallest part in use; whoever comes first."""
    for first, second in ((worse, better), (better, worse)):
        placement = table(("first", report(1, **first)), ("second", report(2, **second)))  # type: ignore[arg-type]
        found = placement.locate(ask(geometry=pb.LatentGeometry(channels=4, height=2, width=5)), "film", 0.0)
        assert found.target == ("second" if first is worse else "first")
        assert len(found.alternatives) == 1


def test_a_held_place_counts_with_its_state() -> None:
    placement = table(("a", report(1, memory=(100, 0))), ("b", report(2, memory=(100, 30))))
    large = ask(geometry=pb.LatentGeometry(channels=4, height=2, width=5))
    assert [placement.locate(large, "film", 0.0).target for _ in range(3)] == ["a", "b", "a"]


def test_only_servers_with_the_model_are_named_and_an_unknown_one_is_told() -> None:
    placement = table(("a", report(1)), ("b", report(2, models=("wan",), sessions=9)))
    found = placement.locate(ask(model="wan"), "film", 0.0)
    assert (found.target, list(found.alternatives)) == ("b", [])
    assert placement.ready_models(0.0) == {"tiny", "wan"}
    with pytest.raises(NotFound, match="model='vae': the servers have tiny, wan"):
        placement.locate(ask(model="vae"), "film", 0.0)


def test_a_tenants_sessions_spread_over_servers_that_are_used_alike() -> None:
    placement = table(("a", report(1)), ("b", report(2)))
    assert placement.locate(ask(), "film", 0.0).target == "a"
    assert placement.locate(ask(), "news", 0.0).target == "b"
    assert placement.locate(ask(), "news", 0.0).target == "a"
    assert placement.locate(ask(), "film", 0.0).target == "b"


def test_a_server_that_takes_no_sessions_is_not_named() -> None:
    placement = table(("a", report(1, ready=False)), ("b", report(2, sessions=9)))
    assert placement.locate(ask(), "film", 0.0).target == "b"
    placement.lost("b")
    placement.lost("nobody")
    assert placement.ready_models(0.0) == set()
    assert [info.epoch for info in placement.servers(0.0)] == [1]
    with pytest.raises(Unavailable, match="no server is ready"):
        placement.locate(ask(), "film", 0.0)
    with pytest.raises(Unavailable, match="no server is ready"):
        Placement().locate(ask(), "film", 0.0)
    placement.report("b", report(2), 1.0)
    assert placement.locate(ask(), "film", 1.0).target == "b"


def test_a_silent_server_is_the_last_one_and_then_none() -> None:
    placement = table(("silent", report(1)))
    placement.report("heard", report(2, sessions=9), FRESH_S + 1)
    found = placement.locate(ask(), "film", FRESH_S + 1)
    assert (found.target, list(found.alternatives)) == ("heard", ["silent"])
    found = placement.locate(ask(), "film", GONE_S + 1)
    assert (found.target, list(found.alternatives)) == ("heard", [])
    assert [info.epoch for info in placement.servers(GONE_S + 1)] == [2]


def test_reports_that_are_late_count_for_nothing() -> None:
    placement = table(("a", report(5, sessions=1)), ("b", report(6, sessions=2)))
    placement.report("a", report(5, sessions=9), -1.0)
    placement.report("a", report(4, sessions=9), 1.0)
    assert placement.locate(ask(), "film", 1.0).target == "a"


def test_an_epoch_goes_back_once_the_server_was_gone() -> None:
    """As on a host whose clock was set back."""
    placement = table(("a", report(5)))
    placement.report("a", report(4), GONE_S + 1)
    assert placement.locate(ask(), "film", GONE_S + 1).epoch == 4
    placement.lost("a")
    placement.report("a", report(3), GONE_S + 2)
    assert placement.locate(ask(), "film", GONE_S + 2).epoch == 3


def test_one_server_with_two_addresses_is_named_once() -> None:
    placement = table(("127.0.0.1:1", report(5)), ("[::1]:1", report(5)))
    assert len(placement) == 1
    assert not placement.locate(ask(), "film", 0.0).alternatives
    placement.lost("127.0.0.1:1")
    placement.report("[::1]:1", report(5), 1.0)
    placement.remove("127.0.0.1:1")
    assert placement.locate(ask(session_id=new_session_id(5)), "film", 1.0).target == "[::1]:1"


def test_a_restarted_server_starts_with_nothing_held() -> None:
    placement = table(("a", report(1)), ("b", report(9)))
    for _ in range(4):
        placement.locate(ask(), "film", 0.0)
    placement.report("a", report(2), 0.5)
    assert [placement.locate(ask(), "film", 0.5).target for _ in range(2)] == ["a", "a"]
    placement.remove("a")
    placement.remove("nobody")
    placement.report("a", report(2), 0.6)
    placement.locate(ask(), "film", HOLD_S)
    assert placement.locate(ask(), "film", 3 * HOLD_S).target == "a"


def test_a_session_is_where_its_id_says_and_anew_where_that_is_gone() -> None:
    """Also at a server that takes no new ones, which may have it still."""
    placement = table(("a", report(1, sessions=9)), ("b", report(2)))
    session = ask(session_id=new_session_id(1))
    for _ in range(2):
        found = placement.locate(session, "film", 0.0)
        assert (found.target, found.epoch, list(found.alternatives)) == ("a", 1, ["b"])
    placement.report("a", report(1, ready=False), 1.0)
    assert placement.locate(session, "film", 1.0).target == "a"
    placement.report("a", report(3, sessions=9), 2.0)
    assert placement.locate(session, "film", 2.0).target == "b"
    placement.remove("a")
    assert placement.locate(session, "film", 2.0).target == "b"
    assert placement.locate(ask(session_id=b"no id"), "film", 2.0).target == "b"


def test_a_session_behind_a_front_is_at_that_front() -> None:
    placement = table(("host1", report(1, epochs=(11, 12), sessions=9)), ("host2", report(2, epochs=(21,))))
    assert placement.locate(ask(session_id=new_session_id(12)), "film", 0.0).target == "host1"
    placement.report("host1", report(1, epochs=(11, 13), sessions=9), 1.0)
    assert placement.locate(ask(session_id=new_session_id(12)), "film", 1.0).target == "host2"


def test_a_look_holds_no_place() -> None:
    placement = table(("a", report(1)), ("b", report(2)))
    assert placement.peek(0.0) == placement.peek(0.0) == ["a", "b"]
    assert Placement().peek(0.0) == []


def test_held_places_are_bounded() -> None:
    """Whoever asks without end pushes the oldest ones out."""
    placement = Placement(most_held=2)
    for number in range(9):
        placement.report(str(number), report(number + 1, sessions=0 if number < 3 else 2), 0.0)
    found = [placement.locate(ask(), "film", 0.0).target for _ in range(6)]
    assert found == ["0", "1", "2", "0", "1", "2"]


@pytest.mark.parametrize(
    "info",
    [
        report(7, models=("tiny",), state=float("nan")),
        report(7, models=("tiny",), state=float("inf")),
        report(7, models=("tiny",), state=-1.0),
        report(7, models=("tiny",), state=1e308, memory=(1 << 63, 1 << 63)),
        report(7, sessions=(1 << 32) - 1, queued=(1 << 32) - 1),
        pb.ServerInfo(epoch=7, ready=True),
        pb.ServerInfo(),
    ],
)
def test_reports_that_cannot_be_do_no_harm(info: pb.ServerInfo) -> None:
    """The honest server goes on to be named."""
    placement = table(("a", report(1, sessions=1)), ("liar", info))
    huge = pb.LatentGeometry(channels=4, height=(1 << 32) - 1, width=(1 << 32) - 1)
    for geometry in (None, huge):
        found = placement.locate(ask(geometry=geometry), "film", 0.0)
        assert "a" in (found.target, *found.alternatives)
