"""What a fleet has, what it should have, and what follows; and that load which comes and goes changes little."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framehaul_fleet.on_ray.plan import (
    DRAIN_MARGIN_S,
    SILENT_S,
    FleetSpec,
    Plan,
    Report,
    Row,
    Scaler,
    State,
    make_plan,
    server_arguments,
)
from framehaul_server import cli
from framehaul_server.front.host import HostShare

NOW_S = 1000.0
SPEC = FleetSpec(least=1, most=8, start_s=100.0, grace_s=10.0, hold_s=60.0)


PREFIX = SPEC.new_name()[:-8]
"""Of the names of servers that are as `SPEC` says."""
NOTHING = Plan(0, [], {})
GIB = 1 << 30


def row(
    name: str = "a",
    *,
    age_s: float = 1.0,
    heard: bool = True,
    ready: bool = True,
    as_told: bool = True,
    **told: int | str,
) -> Row:
    """A server that has been there for `age_s`, and reports now; it is as `SPEC` says, unless it isn't `as_told`."""
    made = Row((PREFIX if as_told else "server-other-") + name, NOW_S - age_s)
    if heard:
        made.hear(report(name, ready=ready, **told), NOW_S)
    return made


def plan(rows: list[Row], spec: FleetSpec, desired: int, now_s: float) -> Plan:
    """What to do, with the names that the test gave."""

    def short(name: str) -> str:
        return name.rpartition("-")[2]

    made = make_plan(rows, spec, desired, now_s)
    kill = {short(name): reason for name, reason in made.kill.items()}
    return Plan(made.num_new, [short(name) for name in made.drain], kill)


def report(name: str = "a", *, ready: bool = True, **told: int | str) -> Report:
    values = {"host": "h", "node": "n", "pid": 1, "places": 10} | told
    return Report(name=name, ready=ready, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "A b"}, "name='A b': must be up to 40 of a-z"),
        ({"least": 3, "most": 2}, "min=3, max=2: must be 0 <= min <= max"),
        ({"grace_s": -1.0}, "grace_s=-1.0: must be 0.0..3600.0"),
    ],
)
def test_what_a_fleet_can_not_be_is_named(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        FleetSpec(**changes)  # type: ignore[arg-type]


def test_a_row_s_state_is_what_its_actor_told_last() -> None:
    pending, starting, ready, draining = row(heard=False), row(ready=False), row(), row()
    draining.hear(Report(name="a", host="h", node="n", pid=1, draining=True), NOW_S)
    assert [each.state for each in (pending, starting, ready, draining)] == list(State)
    assert draining.draining_s == NOW_S
    draining.hear(Report(name="a", host="h", node="n", pid=1, draining=True), NOW_S + 1)
    assert draining.draining_s == NOW_S, "since then"


@pytest.mark.parametrize(
    ("late", "limit_s", "reason"),
    [
        (row(heard=False, age_s=0), SPEC.start_s, "it was not placed for 100 s"),
        (row(ready=False, age_s=0), SPEC.start_s, "its server was not ready for 100 s"),
    ],
)
def test_a_server_that_never_comes_up_is_given_up_and_replaced(late: Row, limit_s: float, reason: str) -> None:
    before = NOW_S + limit_s
    late.heard_s = before
    assert plan([late], SPEC, 1, before).kill == {}
    late.heard_s = before + 1
    assert plan([late], SPEC, 1, before + 1).kill == {"a": reason}
    assert plan([late], SPEC, 1, before + 1).num_new == 1


def test_a_server_that_was_ready_has_its_time_to_become_ready_again() -> None:
    server = row(age_s=5000)
    server.hear(report(ready=False), NOW_S + SPEC.start_s)
    assert not plan([server], SPEC, 1, NOW_S + SPEC.start_s).kill
    server.hear(report(ready=False), NOW_S + SPEC.start_s + 1)
    assert list(plan([server], SPEC, 1, NOW_S + SPEC.start_s + 1).kill) == ["a"]


def test_an_actor_that_is_silent_is_given_up() -> None:
    assert not plan([row()], SPEC, 1, NOW_S + SILENT_S).kill
    assert plan([row()], SPEC, 1, NOW_S + SILENT_S + 1).kill == {"a": "it has been silent for 60 s"}


def test_a_server_that_drains_and_lives_on_is_ended_and_one_in_its_place_comes_at_once() -> None:
    server = row()
    server.draining_s = NOW_S
    assert plan([server], SPEC, 1, NOW_S).num_new == 1
    end_s = NOW_S + SPEC.grace_s + DRAIN_MARGIN_S
    server.heard_s = end_s
    assert not plan([server], SPEC, 1, end_s).kill
    server.heard_s = end_s + 1
    assert plan([server], SPEC, 1, end_s + 1).kill == {"a": "it drains for more than 40 s"}


def test_what_is_let_go_is_what_is_not_ready_and_then_what_is_least_busy() -> None:
    rows = [row("busy", sessions=5), row("queue", queued=3), row("idle"), row("new", ready=False)]
    rows.append(row("pending", heard=False))
    assert plan(rows, SPEC, 5, NOW_S) == NOTHING
    made = plan(rows, SPEC, 2, NOW_S)
    assert set(made.drain) == {"new", "idle"}
    assert made.kill == {"pending": "it is needed no more"}
    assert plan(rows, SPEC, 1, NOW_S).drain[-1] == "queue"


def test_a_drained_node_loses_its_servers_and_others_get_as_many() -> None:
    spec = FleetSpec(least=2, most=2, drained=frozenset({"n"}))
    made = plan([row("a"), row("b", node="other")], spec, 2, NOW_S)
    assert (made.drain, made.num_new, made.kill) == (["a"], 1, {})


def test_servers_with_other_options_are_replaced_one_after_the_other_when_all_others_are_ready() -> None:
    old, busy, new = row("old", as_told=False), row("busy", sessions=1, as_told=False), row("new")
    assert plan([old, busy, new], SPEC, 3, NOW_S) == Plan(0, ["old"], {})
    assert plan([busy, new], SPEC, 3, NOW_S) == Plan(1, [], {}), "first one in its place"
    starting = row("next", ready=False)
    assert plan([busy, new, starting], SPEC, 3, NOW_S) == NOTHING, "which may never come up"
    assert plan([busy, new, row("next")], SPEC, 3, NOW_S) == Plan(0, ["busy"], {})
    assert plan([old, new], SPEC, 1, NOW_S) == Plan(0, ["old"], {}), "it is the first that is too many"


def test_servers_with_other_options_that_do_not_serve_are_let_go_at_once() -> None:
    rows = [row("old", ready=False, as_told=False), row("pending", heard=False, as_told=False), row("ready")]
    assert plan(rows, SPEC, 3, NOW_S) == Plan(2, ["old"], {"pending": "it has other options"})


@pytest.mark.parametrize(
    "changes", [{"gpus": False}, {"grace_s": 1.0}, {"metrics": True}, {"arguments": ("--max-sessions", "2")}]
)
def test_a_server_s_name_tells_its_options(changes: dict[str, Any]) -> None:
    other = replace(SPEC, **changes)
    assert (other.made(other.new_name()), SPEC.made(other.new_name())) == (True, False)
    assert replace(SPEC, least=3, drained=frozenset({"n"}), start_s=1.0).made(SPEC.new_name()), "of the fleet"


def test_what_a_server_is_told() -> None:
    """Its share of the host's memory, unless the operator says otherwise; what the fleet decides comes last."""
    share = HostShare(total_bytes=32 * GIB, available_bytes=8 * GIB)
    spec = FleetSpec(gpus=False, metrics=True, grace_s=5.0, arguments=("--max-sessions", "3"))
    config = cli.parse(server_arguments(spec, "127.0.0.1", share), {})
    assert (str(config.listen), str(config.metrics), config.grace_s) == ("127.0.0.1:0", "127.0.0.1:0", 5.0)
    assert (config.worker.device, config.worker.device_memory_bytes) == ("cpu", 4 * GIB)
    assert (config.max_sessions, config.devices) == (3, ())
    config = cli.parse(server_arguments(FleetSpec(), "127.0.0.1", share), {"FRAMEHAUL_DEVICES": "all"})
    assert (config.worker.device, config.worker.park_bytes, config.metrics) == ("cuda", 8 * GIB, None)
    told = FleetSpec(arguments=("--park-gib", "1"))
    assert cli.parse(server_arguments(told, "127.0.0.1", share), {}).worker.park_bytes == GIB


def desired(scaler: Scaler, num: int, sessions: int, now_s: float) -> int:
    """Of `num` servers with 10 places, which share `sessions`."""
    return scaler.desired([row(str(index), sessions=sessions if not index else 0) for index in range(num)], now_s)


def test_more_servers_come_at_once_and_fewer_when_load_was_low_for_long_enough() -> None:
    scaler = Scaler(SPEC, 1, 0.0)
    assert desired(scaler, 1, 8, 1.0) == 1, "four fifths of ten places"
    assert desired(scaler, 1, 9, 2.0) == 2
    assert desired(scaler, 2, 0, 3.0) == 2
    assert desired(scaler, 2, 0, 62.0) == 2
    assert desired(scaler, 2, 0, 63.0) == 1
    aimed = Scaler(FleetSpec(most=8, sessions=2), 1, 0.0)
    assert desired(aimed, 1, 7, 1.0) == 4
    assert desired(aimed, 1, 700, 2.0) == 8, "never above max"


def test_a_registry_that_begins_again_keeps_the_servers_that_are_there() -> None:
    scaler = Scaler(SPEC, 5, 0.0)
    assert desired(scaler, 5, 0, 30.0) == 5
    assert scaler.desired([], 59.0) == 5, "nobody reports"
    assert desired(scaler, 5, 0, 61.0) == 1


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 200)), min_size=1, max_size=60))
def test_there_are_never_too_few_nor_too_many_and_none_goes_that_was_needed_lately(
    load: list[tuple[int, int]],
) -> None:
    """As an oracle has it that keeps every need of the last minute."""
    scaler, now_s = Scaler(SPEC, 1, 0.0), 0.0
    needs = [(0.0, 1)]
    for passed_s, sessions in load:
        now_s += passed_s
        needs.append((now_s, min(max(math.ceil(sessions / 8), SPEC.least), SPEC.most)))
        found = desired(scaler, 3, sessions, now_s)
        assert found == max(need for then_s, need in needs if now_s - then_s <= SPEC.hold_s)


@given(st.integers(1, 59), st.lists(st.integers(0, 100), min_size=2, max_size=8))
def test_a_load_that_comes_back_within_the_hold_changes_nothing(period_s: int, loads: list[int]) -> None:
    """After its first round, whatever its shape."""
    scaler = Scaler(SPEC, 1, 0.0)
    step_s = period_s / len(loads)
    found = [desired(scaler, 3, loads[step % len(loads)], (step + 1) * step_s) for step in range(12 * len(loads))]
    settled = [each for step, each in enumerate(found) if (step + 1) * step_s > SPEC.hold_s + period_s]
    assert len(set(settled)) <= 1
