import pytest

from framehaul.causes import Cause
from framehaul_server.core.recorder import Recorder
from framehaul_server.session import time_keeper
from framehaul_server.session.time_keeper import TimeKeeper

SECOND_NS = 1_000_000_000


class Clock:
    """Stands in for the module's `time`."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_ns(self) -> int:
        return int(self.now_s * SECOND_NS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time_keeper, "time", found)
    return found


def send(keeper: TimeKeeper, first_frame: int) -> None:
    keeper.sent(first_frame, 4, num_bytes=1, again=False, start_ns=0)


def test_the_first_frame_is_timed_from_the_first_latents_and_counts_at_once(clock: Clock) -> None:
    """What its client takes before it has latents is not the server's."""
    recorder = Recorder(0)
    keeper = TimeKeeper(recorder, lambda: Cause.LATENTS, reports=False)
    keeper.begin()
    clock.now_s = 100.0
    keeper.took(0, 1, 100 * SECOND_NS)
    clock.now_s = 100.25
    keeper.took(1, 1, 101 * SECOND_NS)
    assert sum(recorder.first_frame_s.counts) == 0
    clock.now_s = 100.5
    send(keeper, 0)
    clock.now_s = 200.0
    send(keeper, 4)
    assert recorder.first_frame_s.sum == 0.5
    assert sum(recorder.first_frame_s.counts) == 1


def test_a_wait_counts_once_however_often_somebody_looks(clock: Clock) -> None:
    recorder = Recorder(0)
    waiting_for = Cause.LATENTS
    keeper = TimeKeeper(recorder, lambda: waiting_for, reports=False)
    keeper.begin()
    for now_s, cause in ((1, Cause.LATENTS), (2, Cause.LATENTS), (3, Cause.NETWORK), (5, Cause.LATENTS)):
        clock.now_s, waiting_for = now_s, cause
        keeper.mark()
    assert recorder.totals.num_waits == {Cause.LATENTS: 2, Cause.NETWORK: 1}
    assert recorder.totals.charged_ns == {Cause.LATENTS: 4 * SECOND_NS, Cause.NETWORK: SECOND_NS}


def test_a_chunk_on_its_way_counts_before_it_is_there(clock: Clock) -> None:
    """As the device's; beside other sessions as theirs. What is with the client counts before its report, too."""
    recorder = Recorder(0)
    waiting_for: Cause | None = None
    keeper = TimeKeeper(recorder, lambda: waiting_for, reports=True)
    assert keeper.seconds == {}
    clock.now_s = 1
    keeper.begin()
    clock.now_s = 4
    assert keeper.seconds == {Cause.DECODE: 3}
    recorder.begin(0)
    assert keeper.seconds == {Cause.SHARED: 3}
    assert recorder.totals.charged_ns == {}
    waiting_for = Cause.NETWORK
    assert recorder.seconds(4 * SECOND_NS) == {Cause.IDLE: 1, Cause.NETWORK: 3}
    assert keeper.seconds == {Cause.NETWORK: 3}
    assert recorder.totals.charged_ns == {}
    keeper.end()
    clock.now_s = 9
    assert keeper.seconds == {Cause.NETWORK: 3}
    assert recorder.totals.charged_ns == {Cause.NETWORK: 3 * SECOND_NS}
