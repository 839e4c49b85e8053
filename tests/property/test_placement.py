"""Sessions come to a simulated fleet and leave it, by two tables that hear the same reports late.

`make nightly` has 500 servers and 20,000 sessions.
"""

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import Unavailable
from framehaul_server.core.placement import MOST_NAMED, Placement
from framehaul_server.core.session_id import new_session_id
from framehaul_server.front.members import REPORT_S
from tests.support.placing import ask, report

NUM_SERVERS = int(os.environ.get("FLEET_SERVERS", "50"))
SESSIONS_A_SERVER = 40


@dataclass
class Fleet:
    """Servers that count their sessions, and report every `report_s`, a moment late."""

    num_servers: int
    seed: int
    tables: list[Placement] = field(default_factory=lambda: [Placement()])
    edit: Callable[[int, pb.ServerInfo], pb.ServerInfo | None] = lambda number, info: info
    """Makes of a server's report what the tables hear; None: nothing."""
    report_s: float = 1.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.sessions: Counter[int] = Counter()
        self.now_s = 0.0
        self._next_s = [self.report_s * self.random.random() for _ in range(self.num_servers)]
        for number in range(self.num_servers):
            self._report(number)

    def _report(self, number: int) -> None:
        info = self.edit(number, report(number + 1, sessions=self.sessions[number], max_sessions=64))
        if info is not None:
            for table in self.tables:
                table.report(str(number), info, self.now_s)

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        for number in range(self.num_servers):
            if self._next_s[number] <= self.now_s:
                self._next_s[number] += self.report_s
                self._report(number)

    def open(self, request: pb.LocateRequest | None = None) -> int:
        table = self.random.choice(self.tables)
        found = table.locate(request or ask(), self.random.choice("abc"), self.now_s)
        self.sessions[int(found.target)] += 1
        return int(found.target)

    @property
    def spread(self) -> float:
        """Most sessions over the mean."""
        return max(self.sessions.values()) * self.num_servers / self.sessions.total()


@pytest.mark.parametrize("seconds", [1.0, 60.0])
def test_sessions_spread_evenly(seconds: float) -> None:
    """All at once, or over a minute."""
    fleet = Fleet(NUM_SERVERS, seed=1)
    total = NUM_SERVERS * SESSIONS_A_SERVER
    for _ in range(total):
        fleet.open()
        if fleet.random.random() < 0.1:
            fleet.advance(10 * seconds / total)
    assert fleet.spread <= 1.1


def test_sessions_that_follow_others_at_once_are_spread() -> None:
    """Over the servers of a host, as often as they report: a burst comes a moment after the last one has ended."""
    fleet = Fleet(2, seed=5, report_s=REPORT_S)
    for _ in range(20):
        burst = [fleet.open() for _ in range(8)]
        assert Counter(burst) == {0: 4, 1: 4}
        for seconds, ended in ((1.5, burst), (0.2, [])):
            for _ in range(round(seconds / 0.05)):
                fleet.advance(0.05)
            fleet.sessions.subtract(ended)


def test_sessions_spread_evenly_while_others_end() -> None:
    """What opens balances what is left, though the longer ones stay where they are."""
    fleet = Fleet(NUM_SERVERS, seed=2)
    total = NUM_SERVERS * SESSIONS_A_SERVER
    running: list[int] = []
    for _ in range(3 * total):
        running.append(fleet.open())
        if len(running) > total:
            ended = running.pop(fleet.random.randrange(len(running)))
            fleet.sessions[ended] -= 1
        if fleet.random.random() < 0.1:
            fleet.advance(600 / total)
    assert fleet.spread <= 1.1


def test_a_herd_whose_servers_died_spreads_over_the_others() -> None:
    """A tenth of all sessions comes back at once, with the ids of servers that are gone."""
    fleet = Fleet(NUM_SERVERS, seed=3)
    for _ in range(NUM_SERVERS * SESSIONS_A_SERVER * 9 // 10):
        fleet.open()
    fleet.advance(2.5)
    gone = range(0, NUM_SERVERS, 10)
    for number in gone:
        fleet.tables[0].lost(str(number))
    herd = [ask(session_id=new_session_id(number + 1)) for number in gone for _ in range(fleet.sessions.pop(number))]
    assert not {fleet.open(request) for request in herd} & set(gone)
    assert max(fleet.sessions.values()) * len(fleet.sessions) / fleet.sessions.total() <= 1.1


def test_two_tables_that_know_nothing_of_each_other_spread_as_well() -> None:
    """Each holds places for its own answers alone, and hears of the other's with the next reports."""
    fleet = Fleet(NUM_SERVERS, seed=4, tables=[Placement(), Placement()])
    total = NUM_SERVERS * SESSIONS_A_SERVER
    for _ in range(total):
        fleet.open()
        if fleet.random.random() < 0.1:
            fleet.advance(600 / total)
    assert fleet.spread <= 1.15


_NUMBERS = st.one_of(st.integers(0, 3), st.integers(0, (1 << 32) - 1))
_LARGE = st.one_of(st.integers(0, 3), st.integers(0, (1 << 64) - 1))
_REPORTS = st.builds(
    lambda epoch, ready, sessions, most, queued, pixels, memory, used, state, epochs: report(
        epoch,
        ready=ready,
        sessions=sessions,
        max_sessions=most,
        queued=queued,
        max_pixels=pixels,
        memory=(memory, used),
        state=state,
        epochs=tuple(epochs),
    ),
    *(_LARGE, st.booleans(), _NUMBERS, _NUMBERS, _NUMBERS, _LARGE, _LARGE, _LARGE, st.floats(), st.lists(_LARGE)),
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("report"), st.integers(0, 3), _REPORTS, st.floats(-20, 1)),
        st.tuples(st.just("lost"), st.integers(0, 3), st.none(), st.just(0.0)),
        st.tuples(st.just("remove"), st.integers(0, 3), st.none(), st.just(0.0)),
        st.tuples(st.just("locate"), st.integers(0, 3), st.none(), st.floats(0, 5)),
    ),
    max_size=30,
)


@settings(max_examples=200)
@given(_STEPS)
def test_whatever_others_report_an_honest_server_is_named(
    steps: list[tuple[str, int, pb.ServerInfo | None, float]],
) -> None:
    """Late, contradictory, impossible, of any epoch: answers name servers that are known, each once."""
    placement, now_s = Placement(), 0.0
    honest = report((1 << 63) + 7)
    for step, number, info, seconds in steps:
        placement.report("honest", honest, now_s)
        if step == "report" and info is not None:
            placement.report(str(number), info, now_s + min(seconds, 0.0))
        elif step == "lost":
            placement.lost(str(number))
        elif step == "remove":
            placement.remove(str(number))
        else:
            now_s += seconds
            placement.report("honest", honest, now_s)
            request = ask(session_id=new_session_id(number), geometry=pb.LatentGeometry(height=number, width=1 << 31))
            found = placement.locate(request, str(number), now_s)
            named = [found.target, *found.alternatives]
            assert len(named) == len(set(named)) <= MOST_NAMED
            assert "honest" in named or len(named) == MOST_NAMED
            assert set(named) <= {"honest", "0", "1", "2", "3"}
            assert placement.ready_models(now_s) == {"tiny"}


def test_what_holds_when_all_are_gone() -> None:
    fleet = Fleet(2, seed=5)
    for target in ("0", "1"):
        fleet.tables[0].lost(target)
    with pytest.raises(Unavailable):
        fleet.open()
