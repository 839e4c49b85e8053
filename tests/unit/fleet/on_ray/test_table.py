"""Who is in a fleet, by what Ray and the actors say, and that nothing is decided before it is known."""

from dataclasses import replace

import pytest

from framehaul_fleet.on_ray.plan import FleetSpec, Plan, Report
from framehaul_fleet.on_ray.table import SETTLE_S, Table

SPEC = FleetSpec(least=2, most=2, grace_s=10.0)
NOTHING = Plan(0, [], {})
ONE, OTHER = SPEC.new_name(), SPEC.new_name()


def report(name: str, **told: str | int | bool) -> Report:
    values = {"host": "h", "node": "n", "pid": 1, "ready": True, "target": f"{name}:1", "places": 8} | told
    return Report(name=name, **values)  # type: ignore[arg-type]


def settled(spec: FleetSpec = SPEC) -> Table:
    """With two servers that report."""
    table = Table(spec, 0.0)
    for name in (ONE, OTHER):
        assert not table.report(report(name), 0.5)
    table.look([ONE, OTHER], 1.0)
    return table


def test_a_table_that_begins_anew_names_and_decides_nothing_before_all_actors_have_reported() -> None:
    """So a locator that asks it keeps the servers that it knows, and none is started beside those that are there."""
    table = Table(SPEC, 0.0)
    assert table.look([ONE, OTHER], 1.0) == NOTHING
    assert not table.report(report(ONE), 1.5)
    assert table.look([ONE, OTHER], 2.0) == NOTHING
    assert (table.targets(), table.status(2.0)["settled"]) == ([], False)
    assert not table.report(report(OTHER), 2.5)
    assert table.look([ONE, OTHER], 3.0) == NOTHING
    assert (table.targets(), table.status(3.0)["settled"]) == ([f"{ONE}:1", f"{OTHER}:1"], True)


def test_actors_that_never_report_are_waited_for_but_not_for_long() -> None:
    table = Table(replace(SPEC, least=3, most=3), 0.0)
    assert table.look([ONE, OTHER], SETTLE_S - 0.1) == NOTHING
    assert table.look([ONE, OTHER], SETTLE_S) == Plan(1, [], {})


def test_a_fleet_without_actors_starts_them_at_the_first_look() -> None:
    assert Table(SPEC, 0.0).look([], 1.0) == Plan(2, [], {})


def test_an_actor_that_ray_has_given_up_and_that_lives_on_is_told_to_drain() -> None:
    """Its node was lost for a while, say; another one is in its place already."""
    table = settled()
    assert table.look([ONE], 2.0) == Plan(1, [], {})
    assert table.report(report(OTHER), 2.5)
    assert table.targets() == [f"{ONE}:1"]


def test_actors_that_end_before_they_tell_anything_are_asked_for_less_and_less_often() -> None:
    """A node lacks the package, say. The first one that reports ends that; those that are given up don't count."""
    table = Table(replace(SPEC, least=1, most=1), 0.0)
    assert table.look([], 1.0).num_new == 1
    table.created(ONE, 1.0)
    assert [table.look([], 2.0 + delay_s).num_new for delay_s in (0.0, 1.9, 2.0)] == [0, 0, 1]
    table.created(ONE, 4.0)
    assert [table.look([], 5.0 + delay_s).num_new for delay_s in (0.0, 3.9, 4.0)] == [0, 0, 1]
    assert table.status(9.0)["failures"] == 2
    table.created(ONE, 9.0)
    assert not table.report(report(ONE), 9.5)
    assert table.status(9.5)["failures"] == 0
    assert table.look([], 10.0).num_new == 1, "it did well once"
    pending = 11.0 + SPEC.start_s
    table.created(OTHER, 10.5)
    assert list(table.look([OTHER], pending).kill) == [OTHER]
    assert (table.look([], pending + 1.0).num_new, table.status(pending)["failures"]) == (1, 0)


def test_an_actor_that_was_asked_for_just_now_may_report_before_ray_lists_it() -> None:
    table = settled()
    new = SPEC.new_name()
    table.created(new, 2.0)
    assert not table.report(report(new), 2.1)


def test_what_is_to_drain_is_told_so_and_is_still_found_by_its_sessions() -> None:
    table = settled(FleetSpec(least=0, most=0))
    assert table.report(report(ONE), 2.0)
    assert table.targets() == [f"{ONE}:1", f"{OTHER}:1"]
    assert [each["state"] for each in table.status(2.0)["servers"]] == ["draining", "draining"]


@pytest.mark.parametrize("reports", [True, False])
def test_status_says_what_is_known_of_each_server(reports: bool) -> None:
    table = Table(SPEC, 0.0)
    table.created("server-of-before", 1.0)
    if reports:
        table.report(report("server-of-before", sessions=3, exit_code=9), 2.0)
    status = table.status(4.0)
    assert {name: status[name] for name in ("name", "min", "max", "desired", "drained")} == {
        "name": "default", "min": 2, "max": 2, "desired": 2, "drained": [],
    }  # fmt: skip
    told = {
        "host": "h", "node": "n", "pid": 1, "target": "server-of-before:1", "epoch": 0, "sessions": 3, "queued": 0,
        "places": 8, "exit_code": 9, "silent_s": 2.0,
    }  # fmt: skip
    state = "ready" if reports else "pending"
    shown = {"name": "server-of-before", "state": state, "known_s": 3.0, "as_told": False}
    assert status["servers"] == [shown | (told if reports else {})]
