"""The worker process's threads, around a worker and a channel that only take notes."""

import threading
import time
import weakref
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


class Work:
    """A job, and what is in flight of it."""


class WorkingWorker(NotingWorker):
    """Has one job, then none for as long as something of that is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[weakref.ref[Work]] = []
        self.published = threading.Event()

    def next_job(self, *, wait: bool) -> Work | None:  # type: ignore[override]
        if not self.alive:
            return self.made()
        assert self.published.wait(60)
        deadline_s = time.monotonic() + 10
        while any(each() for each in self.alive) and time.monotonic() < deadline_s:
            time.sleep(0.001)
        self.calls.append(f"alive {sum(each() is not None for each in self.alive)}")
        return None

    def made(self) -> Work:
        work = Work()
        self.alive.append(weakref.ref(work))
        return work

    def run(self, job: Work) -> Work:
        return self.made()

    def complete(self, flight: Work) -> None:
        pass

    def publish(self, flight: Work) -> None:
        self.published.set()


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


def serve(monkeypatch: pytest.MonkeyPatch, *messages: ToWorker, kind: type[NotingWorker] = NotingWorker) -> list[str]:
    monkeypatch.setattr(threading, "Timer", NoTimer)
    worker = kind()
    entry._serve(cast(Worker, worker), cast(WorkerChannel, Script(*messages)))
    return worker.calls


def test_nothing_goes_to_the_device_before_the_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of the worker before are let in first: one that this kills is alone at work."""
    calls = serve(monkeypatch, EndOfLatents(session=1), EndOfLatents(session=2), Begin(), Shutdown())
    assert calls == ["apply EndOfLatents", "apply EndOfLatents", "next_job", "drain"]


@pytest.mark.parametrize("last", [(), (Shutdown(),)])
def test_a_worker_stops_before_it_began(monkeypatch: pytest.MonkeyPatch, last: tuple[ToWorker, ...]) -> None:
    assert serve(monkeypatch, *last) == ["next_job", "drain"]


def test_threads_that_wait_hold_nothing_of_the_last_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job has its session's state, which is to be free once the session is closed."""
    assert serve(monkeypatch, Begin(), kind=WorkingWorker) == ["alive 0", "drain"]
