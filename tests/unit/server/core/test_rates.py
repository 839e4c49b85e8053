from typing import Any

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.link.messages import DeviceTime
from framehaul_server.core.rates import _MAX_SIZES, Rates
from framehaul_server.core.recorder import Recorder

SECOND = 1_000_000_000


def chunk(**changes: Any) -> DeviceTime:
    """A chunk of 2 latents, which takes 2 s, 1 of them its kernels', and gives 8 frames."""
    values = {"model": "m", "frame_size": (480, 832), "num_frames": 8, "num_latents": 2}
    return DeviceTime(
        **{"session": 1, "tenant": "", "device_ns": 2 * SECOND, "kernels_ns": SECOND, **values, **changes}
    )


def test_a_rate_is_that_of_all_chunks_but_the_first_of_a_length() -> None:
    """In these kernels are compiled and chosen. Chunks without frames count with their time; failed ones don't."""
    rates = Rates()
    for device_s in (90, 80, 2, 4):
        rates.add(chunk(device_ns=device_s * SECOND))
    assert rates.of("m") == [pb.MeasuredRate(width=832, height=480, num_frames=16, device_s=6.0, kernels_s=2.0)]
    for _ in range(3):
        rates.add(chunk(num_latents=1, num_frames=0, device_ns=3 * SECOND, kernels_ns=0))
        rates.add(chunk(device_ns=0))
    assert rates.of("m") == [pb.MeasuredRate(width=832, height=480, num_frames=16, device_s=9.0, kernels_s=2.0)]


def test_rates_are_kept_apart_by_model_and_size() -> None:
    """Nothing is told of what wasn't decoded, nor of what gave no frame yet."""
    rates = Rates()
    for _ in range(3):
        for model, size in (("m", (720, 1280)), ("m", (480, 832)), ("n", (480, 832))):
            rates.add(chunk(model=model, frame_size=size))
        rates.add(chunk(model="none", num_frames=0))
    assert [(each.height, each.width) for each in rates.of("m")] == [(480, 832), (720, 1280)]
    assert len(rates.of("n")) == 1
    assert rates.of("none") == rates.of("other") == []


def test_what_is_long_past_counts_less() -> None:
    """A device that became slower shows, after some minutes of its time."""
    rates = Rates()
    for _ in range(402):
        rates.add(chunk())
    for _ in range(400):
        rates.add(chunk(device_ns=8 * SECOND))
    (rate,) = rates.of("m")
    assert rate.device_s / rate.num_frames > 0.9


def test_sizes_are_forgotten_when_there_are_too_many() -> None:
    """Those first that weren't decoded for longest: the sizes are the clients' choice."""
    rates = Rates()
    for width in range(8, 8 + _MAX_SIZES):
        for _ in range(3):
            rates.add(chunk(frame_size=(8, width)))
    for _ in range(3):
        rates.add(chunk(frame_size=(8, 8)))
        rates.add(chunk(frame_size=(16, 16)))
    widths = [each.width for each in rates.of("m") if each.height == 8]
    assert (len(rates.of("m")), widths[:2]) == (_MAX_SIZES, [8, 10])


def test_the_recorder_keeps_them() -> None:
    recorder = Recorder(0)
    for _ in range(3):
        recorder.decoded(chunk(), 9 * SECOND)
    assert len(recorder.rates.of("m")) == 1
