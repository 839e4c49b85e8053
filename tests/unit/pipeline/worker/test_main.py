"""The worker process's threads, around a worker and a channel that only take notes."""

import threading
from collections import deque
from typing import cast

import pytest

from framehaul_pipeline.link.channel import WorkerChannel
from framehaul_pipeline.link.messages import Begin, EndOfLatents, Shutdown, ToWorker
from framehaul_pipeline.worker import main as entry
from framehaul_pipeline.worker.worker import Worker


class NotingWorker:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.asked = threading.Event()

    def apply(self, message: ToWorker) -> None:
        self.asked.wait(0.2)  # time for the launch thread to come too early
        self.calls.append(f"apply {type(message).__name__}")

    def next_job(self, *, wait: bool) -> None:
        self.calls.append("next_job")
        self.asked.set()

    def stop(self) -> None:
        pass

    def drain(self) -> None:
        self.calls.append("drain")


class Script:
    """A channel that gives these messages."""

    def __init__(self, *messages: ToWorker) -> None:
        self.messages = deque(messages)

    def receive(self) -> ToWorker | None:
        return self.messages.popleft() if self.messages else None


class NoTimer:
    """The process that would end is the test's."""

    def __init__(self, *given: object) -> None:
        self.daemon = False

    def start(self) -> None:
        pass


def serve(monkeypatch: pytest.MonkeyPatch, *messages: ToWorker) -> list[str]:
    monkeypatch.setattr(threading, "Timer", NoTimer)
    worker = NotingWorker()
    entry._serve(cast(Worker, worker), cast(WorkerChannel, Script(*messages)))
    return worker.calls


def test_nothing_goes_to_the_device_before_the_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of the worker before are let in first: one that this kills is alone at work."""
    calls = serve(monkeypatch, EndOfLatents(session=1), EndOfLatents(session=2), Begin(), Shutdown())
    assert calls == ["apply EndOfLatents", "apply EndOfLatents", "next_job", "drain"]


@pytest.mark.parametrize("last", [(), (Shutdown(),)])
def test_a_worker_stops_before_it_began(monkeypatch: pytest.MonkeyPatch, last: tuple[ToWorker, ...]) -> None:
    assert serve(monkeypatch, *last) == ["next_job", "drain"]
