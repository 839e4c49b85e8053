import pytest

from framehaul.causes import Cause
from framehaul_pipeline.errors import Lack
from framehaul_pipeline.link.messages import ChunkTimes, DeviceTime
from framehaul_server.core.recorder import RECENT_S, Event, Histogram, Kind, Recent, Recorder
from tests.support.fakes import published

SECOND = 1_000_000_000
MS = 1_000_000


def test_a_histogram_counts_below_its_bounds() -> None:
    """Each value once; a bound belongs to what is below it."""
    histogram = Histogram(0.1, 1)
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    assert dict(zip(histogram.bounds, histogram.counts, strict=True)) == {0.1: 2, 1: 1, float("inf"): 1}
    assert histogram.sum == pytest.approx(7.65)


def test_the_last_minute_is_kept_by_seconds_and_nothing_older() -> None:
    recent = Recent()
    recent.add("a", 10 * SECOND + 500 * MS, 12 * SECOND + 250 * MS)
    recent.count("frames", 3, 11 * SECOND)
    seconds = recent.seconds(13 * SECOND)
    assert len(seconds) == RECENT_S
    assert [each.get("a", 0) // MS for each in seconds[-3:]] == [500, 1000, 250]
    assert recent.sums(13 * SECOND) == {"a": 1750 * MS, "frames": 3}
    recent.add("b", 0, 200 * SECOND)  # longer than a minute: the last one counts
    assert recent.sums(200 * SECOND) == {"b": 60 * SECOND}
    assert len(recent._seconds) == RECENT_S
    assert recent.sums(300 * SECOND) == {}


def device_time(milliseconds: int) -> DeviceTime:
    return DeviceTime(session=1, tenant="t", num_latents=1, device_ns=milliseconds * MS, kernels_ns=milliseconds * MS)


def test_the_servers_time_is_the_devices_while_it_works_and_else_what_sessions_wait_for() -> None:
    """10 s without sessions, then 10 s with one: 4 s on the device, the rest by what it waited for besides."""
    recorder = Recorder(0)
    assert recorder.seconds(10 * SECOND) == {Cause.IDLE: 10}
    number = recorder.begin(10 * SECOND)
    for at in (11, 12, 13, 14):
        recorder.decoded(device_time(1000), at * SECOND)
    recorder.charge(number, Cause.DECODE, 10 * SECOND, 14 * SECOND)
    recorder.charge(number, Cause.LATENTS, 14 * SECOND, 16 * SECOND)
    recorder.charge(number, Cause.NETWORK, 16 * SECOND, 20 * SECOND)
    expected = {Cause.DECODE: 4, Cause.IDLE: 10, Cause.LATENTS: 2, Cause.NETWORK: 4}
    assert recorder.seconds(20 * SECOND) == expected
    recorder.end(number, 20 * SECOND)
    assert recorder.seconds(20 * SECOND) == expected
    assert recorder.totals.charged_ns == {
        Cause.DECODE: 4 * SECOND,
        Cause.LATENTS: 2 * SECOND,
        Cause.NETWORK: 4 * SECOND,
    }
    assert (recorder.totals.device_ns, recorder.totals.kernels_ns) == (4 * SECOND, 4 * SECOND)


def test_sessions_that_overlap_are_there_once_and_wait_for_the_device_alone() -> None:
    """Two sessions of which one always waits for the other: the device is what the server is bound by."""
    recorder = Recorder(0)
    first, second = recorder.begin(0), recorder.begin(0)
    assert first != second
    recorder.decoded(device_time(9000), 10 * SECOND)
    recorder.charge(first, Cause.DECODE, 0, 10 * SECOND)
    recorder.charge(second, Cause.SHARED, 0, 10 * SECOND)
    assert recorder.seconds(10 * SECOND) == {Cause.DECODE: 9, Cause.IDLE: 1}
    recorder.end(first, 10 * SECOND)
    recorder.end(second, 20 * SECOND)
    assert recorder.seconds(20 * SECOND) == {Cause.DECODE: 9, Cause.IDLE: 11}


def test_what_isnt_charged_yet_counts_as_well() -> None:
    """A chunk on the device for 6 s, whomever it is for, and 2 s with a client; each second has its part."""
    recorder = Recorder(0)
    uncharged = [
        (Cause.SHARED, 2 * SECOND, 6 * SECOND),
        (Cause.DECODE, 6 * SECOND, 8 * SECOND),
        (Cause.NETWORK, 8 * SECOND, 10 * SECOND),
    ]
    recorder.charge(recorder.begin(0, lambda: uncharged), Cause.COPY, 0, 2 * SECOND)
    assert recorder.seconds(10 * SECOND) == {Cause.DECODE: 6, Cause.COPY: 2, Cause.NETWORK: 2}
    causes = [Cause.COPY] * 2 + [Cause.DECODE] * 6 + [Cause.NETWORK] * 2
    assert recorder.timeline(10 * SECOND)[-10:] == [{cause: 1.0} for cause in causes]


def test_listeners_hear_of_everything_while_they_listen() -> None:
    recorder, heard = Recorder(0), list[Event]()
    chunk = published(0, 4)
    recorder.latents(1, 0, 2, SECOND)
    with recorder.listening(heard.append):
        recorder.latents(1, 0, 2, SECOND)
        recorder.chunk(1, chunk, 2 * SECOND)
        recorder.sent(1, 0, 4, num_bytes=9, again=False, start_ns=SECOND, end_ns=2 * SECOND)
        recorder.acknowledged(1, 4, 3 * SECOND)
        recorder.charge(1, Cause.COPY, SECOND, 2 * SECOND)
    recorder.acknowledged(1, 4, 3 * SECOND)
    assert heard == [
        Event(Kind.LATENTS, 1, SECOND, SECOND, 0, 2),
        Event(Kind.CHUNK, 1, 0, 2 * SECOND, 0, 4, chunk),
        Event(Kind.SENT, 1, SECOND, 2 * SECOND, 0, 4),
        Event(Kind.ACKNOWLEDGED, 1, 3 * SECOND, 3 * SECOND, 4),
        Event(Kind.WAITED, 1, SECOND, 2 * SECOND, cause=Cause.COPY),
    ]


def test_counters_count() -> None:
    """Frames as often as they were sent; those sent again also by themselves."""
    recorder = Recorder(0)
    for again in (False, True):
        recorder.sent(1, 0, 4, num_bytes=100, again=again, start_ns=0, end_ns=SECOND)
    recorder.latents(1, 0, 2, SECOND)
    for tenant, cause in (("film", "ok"), ("film", "ok"), (None, "unauthenticated")):
        recorder.ended(tenant=tenant, cause=cause, lack=None)
    recorder.ended(tenant="film", cause="resource_exhausted", lack=Lack.PLACES)
    totals = recorder.totals
    assert (totals.num_frames, totals.num_replayed, totals.num_bytes, totals.num_latents) == (8, 4, 200, 2)
    assert totals.ended == {("film", "ok"): 2, ("", "unauthenticated"): 1, ("film", "resource_exhausted"): 1}
    assert totals.refused == {Lack.PLACES: 1}


def test_stages_of_a_chunk_are_measured_one_after_the_other() -> None:
    recorder = Recorder(0)
    times = ChunkTimes(launched_ns=10 * MS, turn_ns=15 * MS, decoded_ns=45 * MS, copied_ns=47 * MS, slot_wait_ns=3 * MS)
    recorder.chunk(1, published(0, 4, times=times), 50 * MS)
    sums = {stage: round(each.sum * 1000) for stage, each in recorder.stages_s.items()}
    assert sums == {"wait": 8, "decode": 30, "copy": 2, "publish": 3}
    assert recorder.totals.num_decoded == 4


def on_device(device_s: int, kernels_s: int) -> DeviceTime:
    return DeviceTime(
        session=1, tenant="everyone", num_latents=1, device_ns=device_s * SECOND, kernels_ns=kernels_s * SECOND
    )


@pytest.mark.parametrize(
    ("device_s", "kernels_s", "waits", "expected"),
    [
        (0, 0, {Cause.LATENTS: 10}, None),  # never its turn
        (8, 8, {Cause.DECODE: 8, Cause.LATENTS: 2}, 1.0),
        (8, 6, {Cause.DECODE: 8, Cause.CLIENT_ENCODER: 2}, 0.75),
        (6, 6, {Cause.DECODE: 6, Cause.COPY: 2, Cause.NETWORK: 2}, 0.75),
        (6, 6, {Cause.DECODE: 8, Cause.CLIENT_WINDOW: 2}, 0.75),  # 2 s before launches, with nothing on the device
        (4, 4, {Cause.DECODE: 4, Cause.SLOTS: 4, Cause.LATENTS: 2}, 0.5),
        (4, 4, {}, 1.0),  # what its session waited for isn't known yet
    ],
)
def test_speed_of_light_is_of_the_time_in_which_it_was_the_servers_turn(
    device_s: int, kernels_s: int, waits: dict[Cause, int], expected: float | None
) -> None:
    recorder = Recorder(0)
    number = recorder.begin(0)
    now_s = 0
    for cause, seconds in waits.items():
        recorder.charge(number, cause, now_s * SECOND, (now_s + seconds) * SECOND)
        now_s += seconds
    if device_s:
        recorder.decoded(on_device(device_s, kernels_s), device_s * SECOND)
    assert recorder.speed_of_light(10 * SECOND) == (None if expected is None else pytest.approx(expected))


def test_a_server_without_sessions_has_no_speed() -> None:
    recorder = Recorder(0)
    number = recorder.begin(0)
    recorder.decoded(on_device(1, 1), SECOND)
    recorder.end(number, SECOND)
    assert recorder.speed_of_light(2 * SECOND) == 1.0
    assert recorder.speed_of_light(100 * SECOND) is None
