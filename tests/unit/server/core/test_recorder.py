import pytest

from framehaul.causes import Cause
from framehaul_pipeline.link.messages import DeviceTime
from framehaul_server.core.recorder import Recorder

SECOND_NS = 1_000_000_000


def on_device(device_s: int, kernels_s: int) -> DeviceTime:
    return DeviceTime(
        session=1, tenant="everyone", num_latents=1, device_ns=device_s * SECOND_NS, kernels_ns=kernels_s * SECOND_NS
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
        recorder.charge(number, cause, now_s * SECOND_NS, (now_s + seconds) * SECOND_NS)
        now_s += seconds
    if device_s:
        recorder.decoded(on_device(device_s, kernels_s), device_s * SECOND_NS)
    assert recorder.speed_of_light(10 * SECOND_NS) == (None if expected is None else pytest.approx(expected))


def test_a_server_without_sessions_has_no_speed() -> None:
    recorder = Recorder(0)
    recorder.begin(0)
    recorder.decoded(on_device(1, 1), SECOND_NS)
    recorder.end(SECOND_NS)
    assert recorder.speed_of_light(2 * SECOND_NS) == 1.0
    assert recorder.speed_of_light(100 * SECOND_NS) is None
