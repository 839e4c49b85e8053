from framehaul.causes import Cause
from framehaul_pipeline.link.messages import DeviceTime
from framehaul_server.core.recorder import RECENT_S, Recorder

SECOND = 1_000_000_000


def test_each_second_of_the_last_minute_is_what_the_verdict_is_made_of() -> None:
    """The device's time is decoding; the rest goes to what sessions wait for; without sessions it is idle."""
    recorder = Recorder(100 * SECOND)
    first = recorder.begin(101 * SECOND)
    recorder.decoded(DeviceTime(session=first, tenant="", num_latents=1, device_ns=SECOND // 4), 102 * SECOND)
    recorder.charge(first, Cause.SHARED, 101 * SECOND, 102 * SECOND)
    recorder.charge(first, Cause.COPY, 102 * SECOND, 102 * SECOND + SECOND // 4)
    recorder.charge(first, Cause.LATENTS, 102 * SECOND + SECOND // 4, 103 * SECOND)
    recorder.end(first, 103 * SECOND + SECOND // 2)
    timeline = recorder.timeline(105 * SECOND + 7)
    assert len(timeline) == RECENT_S
    assert timeline[:-5] == [{}] * (RECENT_S - 5), "before the start"
    assert timeline[-5:] == [
        {Cause.IDLE: 1.0},
        {Cause.DECODE: 0.25, Cause.IDLE: 0.75},
        {Cause.COPY: 0.25, Cause.LATENTS: 0.75},
        {Cause.IDLE: 1.0},
        {Cause.IDLE: 1.0},
    ]


def test_a_second_in_which_a_session_is_at_work_is_not_idle() -> None:
    recorder = Recorder(0)
    number = recorder.begin(SECOND // 2)
    recorder.charge(number, Cause.NETWORK, SECOND // 2, SECOND)
    assert recorder.timeline(2 * SECOND)[-2] == {Cause.IDLE: 0.5, Cause.NETWORK: 0.5}
