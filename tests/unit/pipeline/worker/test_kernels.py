"""Kernels as CUPTI sees them, as messages."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch._C._autograd import DeviceType

from framehaul_pipeline.link.messages import MAX_MESSAGE_BYTES, Kernels, KernelsBegun, ToServer, encode
from framehaul_pipeline.worker import kernels

OFFSET_NS = 1_000_000


def event(name: str, start_ns: int, *, stream: int = 7, device: Any = DeviceType.CUDA) -> Any:
    values = {"name": name, "start_ns": start_ns + OFFSET_NS, "duration_ns": 5, "device_resource_id": stream}
    return SimpleNamespace(
        device_type=lambda: device, **{key: lambda value=value: value for key, value in values.items()}
    )


def rows(told: list[Kernels]) -> list[tuple[str, int, int, int]]:
    return [(each.names[name], start, took, stream) for each in told for name, start, took, stream in each.rows]


def test_what_ran_on_the_device_is_told_in_order_and_on_the_servers_clock() -> None:
    """Nothing of the host's."""
    events = [event("b", 20), event("launch", 5, device=DeviceType.CPU), event("a", 10, stream=8), event("b", 30)]
    told = list(kernels.messages(events, realtime_less_monotonic_ns=OFFSET_NS))
    assert rows(told) == [("a", 10, 5, 8), ("b", 20, 5, 7), ("b", 30, 5, 7)]
    assert [(each.last, each.left_out) for each in told] == [(True, 0)]


@pytest.mark.parametrize(("count", "num_messages"), [(0, 1), (500, 1), (501, 2)])
def test_messages_are_small_and_the_last_one_says_so(count: int, num_messages: int) -> None:
    """Also when no two kernels have the same name, and names are long."""
    events = [event(f"{index:03}" + 500 * "x", index) for index in range(count)]
    told = list(kernels.messages(events, realtime_less_monotonic_ns=OFFSET_NS))
    assert [each.last for each in told] == [False] * (num_messages - 1) + [True]
    assert sum(len(each.rows) for each in told) == count
    assert max(len(encode(each)) for each in told) < min(MAX_MESSAGE_BYTES, 100_000)


def test_the_newest_of_too_many_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MOST_KERNELS", 600)
    events = [event("a", index) for index in range(1000)]
    told = list(kernels.messages(events, realtime_less_monotonic_ns=OFFSET_NS))
    assert [each.left_out for each in told] == [0, 400]
    assert rows(told)[-1][1] == 599


class Profiler:
    """Stands in for torch's."""

    def __init__(self, events: list[Any], error: Exception | None = None) -> None:
        self.events, self.error = events, error
        self.profiler = SimpleNamespace(kineto_results=SimpleNamespace(events=lambda: self.events))

    def __enter__(self) -> "Profiler":
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *_: object) -> None:
        return


def recorded(monkeypatch: pytest.MonkeyPatch, profiler: Profiler) -> list[ToServer]:
    monkeypatch.setattr(kernels, "profile", lambda activities: profiler)
    told: list[ToServer] = []
    kernels.record(0.0, told.append)
    return told


def test_a_recording_says_when_it_begins_and_then_what_it_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, heard = recorded(monkeypatch, Profiler([event("a", 10)]))
    assert begun == KernelsBegun()
    assert isinstance(heard, Kernels)
    assert (heard.names, heard.last, heard.error) == (("a",), True, None)


def test_a_recording_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """And harms nothing else."""
    (failed,) = recorded(monkeypatch, Profiler([], RuntimeError("CUPTI is in use")))
    assert failed == Kernels(names=(), rows=(), last=True, error="RuntimeError: CUPTI is in use")
