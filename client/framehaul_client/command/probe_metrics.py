"""A probe's metrics in Prometheus' format; imported only when they are asked for, since `prometheus-client` is extra.

The library serves them from threads of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

from framehaul.address import Address
from framehaul_client.command.probe_report import OK, Run
from framehaul_client.errors import FramehaulError, InvalidOption

_SECONDS: Final = tuple(digit * 10.0**power for power in (-3, -2, -1, 0, 1, 2) for digit in (1, 2, 5))


class ProbeMetrics:
    """What was measured, by target; times are of runs that ended well."""

    def __init__(self, targets: Sequence[str]) -> None:
        """Begin with no runs; each way in which one can end counts from 0, so that the first failure is an increase."""
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"framehaul_probe_{name}", text, ("target", *labels), registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"framehaul_probe_{name}", text, ("target",), registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            text = f"{text}, in runs that ended well."
            return Histogram(f"framehaul_probe_{name}", text, ("target",), registry=registry, buckets=_SECONDS)

        self._success = gauge("success", "1 if the last run ended well, else 0.")
        self._runs = counter("runs", "Runs by how they ended: ok, or the class of the error.", "outcome")
        self._frames_per_s = gauge(
            "frames_per_second",
            "Frames a second in the last run, up to its last frame; 0 if it failed.",
        )
        self._last_success = gauge("last_success_timestamp_seconds", "When the last run that ended well began.")
        self._times = {
            "connect_s": histogram("connect_seconds", "Time until the server answered"),
            "queue_s": histogram("queue_seconds", "Time in the server's queue"),
            "first_frame_s": histogram(
                "first_frame_seconds", "Time from asking for the session to its first frame, without the queue"
            ),
            "total_s": histogram("duration_seconds", "Time from connecting to the end of the stream"),
        }
        for target in targets:
            for outcome in (OK, *_class_names(FramehaulError)):
                self._runs.labels(target, outcome)

    def observe(self, run: Run) -> None:
        """Take one in."""
        good = run.error is None
        self._runs.labels(run.target, run.outcome).inc()
        self._success.labels(run.target).set(good)
        self._frames_per_s.labels(run.target).set(run.frames_per_s if good else 0.0)
        if good:
            self._last_success.labels(run.target).set(run.started_at)
            for name, histogram in self._times.items():
                histogram.labels(run.target).observe(getattr(run, name))

    @contextmanager
    def served(self, address: Address) -> Iterator[str]:
        """Serve them at `address`, and yield their URL.

        Raises:
            InvalidOption: it can't be listened on.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they are a series more for each of ours
        try:
            server, thread = start_http_server(address.port, address.host, self.registry)
        except OSError as error:
            raise InvalidOption(f"metrics={address}: can't be listened on: {error.strerror}") from error
        try:
            yield f"http://{replace(address, port=server.server_port)}/metrics"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _class_names(kind: type[FramehaulError]) -> Iterable[str]:
    yield kind.__name__
    for narrower in kind.__subclasses__():
        yield from _class_names(narrower)
