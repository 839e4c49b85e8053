"""Metrics for Prometheus, made from the server's view whenever somebody asks; nothing is done for them before.

Runs on the event loop. The names are for dashboards and rules, `deploy/` among them: change one, and those break.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from typing import Any, Final

from aiohttp import web
from aiohttp.hdrs import ACCEPT, CONTENT_TYPE
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from framehaul.causes import Cause, Verdict
from framehaul_pipeline.errors import Lack
from framehaul_pipeline.supervision.supervisor import WorkerState
from framehaul_server.core.recorder import Histogram, Recorder
from framehaul_server.observe.http import Handler
from framehaul_server.observe.view import ServerView

_PREFIX: Final = "framehaul_"
_WAITED_FOR: Final = tuple(cause for cause in Cause if cause is not Cause.IDLE)
"""What sessions wait for: all but what a server without them does."""
_ENDS: Final = (
    *("ok", "client_left", "cancelled", "invalid_argument", "not_found", "failed_precondition", "resource_exhausted"),
    *("permission_denied", "deadline_exceeded", "aborted", "unavailable", "data_loss", "internal"),
)
"""How calls of sessions may end. All are told of, from nothing on: Prometheus can't see the rise of what is new."""


def routes(view: Callable[[], ServerView]) -> list[tuple[str, Handler]]:
    """`/metrics`, in Prometheus' text format or, for who accepts that, in OpenMetrics'."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(view))
    ProcessCollector(registry=registry)

    async def metrics(request: web.Request) -> web.StreamResponse:
        encode, content_type = choose_encoder(request.headers.get(ACCEPT, ""))
        return web.Response(body=encode(registry), headers={CONTENT_TYPE: content_type})

    return [("/metrics", metrics)]


class ServerCollector(Collector):
    """Makes metrics of a view."""

    def __init__(self, view: Callable[[], ServerView]) -> None:
        """Ask `view` at each scrape."""
        self._view = view

    def describe(self) -> Iterable[Metric]:
        """Nothing: names aren't checked against other collectors' by asking for values."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All of the server's metrics."""
        view = self._view()
        yield from _server(view)
        yield from _sessions(view)
        yield from _memory(view)
        yield from _time(view.recorder, view.now_ns)
        yield from _work(view.recorder)
        if view.num_readers:
            yield from _highlights(view)


def _server(view: ServerView) -> Iterator[Metric]:
    yield _labelled(
        GaugeMetricFamily,
        "build_info",
        "The server's version and device; always 1.",
        ("version", "device"),
        {(view.version, view.device): 1},
    )
    states = {(state.value,): int(state.value == view.worker_state) for state in WorkerState}
    yield _labelled(
        GaugeMetricFamily, "worker_state", "Whether the worker is in that state: 1 or 0.", ("state",), states
    )
    yield _counter(
        "worker_restarts", "Workers started after the first one, because the one before died.", view.num_restarts
    )


def _sessions(view: ServerView) -> Iterator[Metric]:
    ended = view.recorder.totals.ended
    tenants = {session.tenant for session in view.sessions} | {tenant for tenant, _ in ended}
    numbers = Counter((session.state, session.tenant) for session in view.sessions)
    yield _labelled(
        GaugeMetricFamily,
        "sessions",
        "Sessions with a place: opened, served (the client has sent more than its first request), or detached (they "
        "wait for their client to connect again). Those of the queue aren't among them.",
        ("state", "tenant"),
        {(state, tenant): numbers[state, tenant] for state in ("opened", "served", "detached") for tenant in tenants},
    )
    yield _gauge("places_held", "Places that sessions have, or calls that are about to.", view.num_sessions)
    yield _gauge("places_limit", "Sessions that the server takes at a time (--max-sessions).", view.max_sessions)
    yield _gauge("queued_sessions", "Sessions that wait in the queue for a place.", view.num_queued)
    yield _gauge("queued_sessions_limit", "Sessions that may wait (--max-queued).", view.max_queued)
    yield _labelled(
        CounterMetricFamily,
        "session_calls",
        "Calls of sessions that ended, by how: ok, client_left, or the gRPC status, which is a refusal, a failure or "
        "the client's own wish (cancelled). A session that is resumed has several calls. Calls without a known token "
        "aren't counted.",
        ("tenant", "cause"),
        {(tenant, cause): ended[tenant, cause] for tenant in tenants for cause in _ENDS},
    )
    yield _labelled(
        CounterMetricFamily,
        "refusals",
        "Calls of sessions that ended with resource_exhausted, by what there was none of: places of the server or of "
        "the tenant, bytes that may wait for the tenant, device_memory, reading (the request gave way to others), or "
        "calls (the client has as many as it may).",
        ("reason",),
        {(lack.value,): view.recorder.totals.refused[lack] for lack in Lack},
    )
    yield _counter("sessions_resumed", "Sessions taken up again by a new connection.", view.recorder.totals.num_resumed)


def _memory(view: ServerView) -> Iterator[Metric]:
    worker = view.worker
    yield _labelled(
        GaugeMetricFamily,
        "frame_slots",
        "Slots of the frame ring. Held: from a chunk's launch until the server has taken its frames.",
        ("state",),
        {("held",): worker.num_slots_held, ("free",): worker.num_slots - worker.num_slots_held},
    )
    yield _labelled(
        GaugeMetricFamily,
        "inlet_slots",
        "Slots of the inlet ring. Held: by a latent that the worker has not decoded.",
        ("state",),
        {("held",): worker.num_inlet_slots - worker.num_inlet_free, ("free",): worker.num_inlet_free},
    )
    yield _gauge(
        "session_memory_bytes", "Device memory that sessions' state and work take.", worker.session_memory_used_bytes
    )
    yield _gauge(
        "session_memory_limit_bytes",
        "Device memory that sessions may take; 0: unlimited, or no worker.",
        worker.session_memory_bytes,
    )
    yield _gauge("parked_sessions", "Sessions whose state is in host memory.", worker.num_parked)


def _time(recorder: Recorder, now_ns: int) -> Iterator[Metric]:
    totals = recorder.totals
    yield _labelled(
        CounterMetricFamily,
        "blocked_seconds",
        "Time of all sessions by what their next frame waited for. A client's own time is known once it acknowledges "
        "frames, or after 10 s; a chunk's once its frames are there.",
        ("cause",),
        {(_name(cause),): totals.charged_ns[cause] / 1e9 for cause in _WAITED_FOR},
    )
    yield _labelled(
        CounterMetricFamily,
        "waits",
        "How often a session began to wait for that.",
        ("cause",),
        {(_name(cause),): totals.num_waits[cause] for cause in _WAITED_FOR},
    )
    verdict = Verdict.of(recorder.seconds(now_ns))
    shares = verdict.shares if verdict is not None else {}
    yield _labelled(
        GaugeMetricFamily,
        "time_share",
        "The server's verdict: what its last minute went to. They add up to 1.",
        ("cause",),
        {(_name(cause),): shares.get(cause, 0.0) for cause in Cause},
    )
    ratio = recorder.speed_of_light(now_ns)
    yield _labelled(
        GaugeMetricFamily,
        "speed_of_light_ratio",
        "Frames a second that were made in the last minute, over the decoder's own: those that its kernels alone "
        "would make. Only time counts in which it was the server's turn: that of the device, and of the rest of the "
        "time with sessions the share for which these waited for the server and not for their clients. Absent without "
        "such time.",
        (),
        {} if ratio is None else {(): ratio},
    )


def _work(recorder: Recorder) -> Iterator[Metric]:
    totals = recorder.totals
    yield _counter(
        "device_busy_seconds", "Time for which chunks had the device, from turn to copy.", totals.device_ns / 1e9
    )
    yield _counter(
        "device_kernels_seconds",
        "Of that, from a chunk's first kernel to its last, by the device's clock. Its rate is the kernel-busy share.",
        totals.kernels_ns / 1e9,
    )
    yield _counter(
        "frames_decoded",
        "Frames that came from a worker for a session, each once: those decoded again after a worker's death aren't "
        "counted.",
        totals.num_decoded,
    )
    yield _counter("latents_received", "Latents taken from clients, each once.", totals.num_latents)
    yield _counter(
        "frames_sent",
        "Frames handed to the transport, each as often as that was tried. Less framehaul_frames_replayed_total: each "
        "frame once, which its client has if its session ended well.",
        totals.num_frames,
    )
    yield _counter("frames_replayed", "Of these, frames handed over again to a resumed session.", totals.num_replayed)
    yield _counter(
        "sent_bytes", "Bytes of messages with frames handed to the transport, replayed ones too.", totals.num_bytes
    )
    yield _histogram(
        "first_frame_seconds",
        "From a session's first latents to its first frame handed to the transport.",
        {(): recorder.first_frame_s},
    )
    yield _histogram(
        "queue_wait_seconds",
        "Of sessions that waited in the queue: until they had a place, or left.",
        {(): recorder.queue_s},
    )
    yield _histogram(
        "chunk_stage_seconds",
        "Of each chunk: wait for a slot and its turn on the device, decode, copy to the host, publish (checksum, and "
        "the way to the server).",
        {(stage,): histogram for stage, histogram in recorder.stages_s.items()},
        ("stage",),
    )


def _highlights(view: ServerView) -> Iterator[Metric]:
    totals = view.recorder.totals.highlights
    tenants = {tenant for tenant, _ in totals.ended}
    yield _labelled(
        CounterMetricFamily,
        "highlight_calls",
        "Calls of Highlight that ended, by how, as calls of sessions. Absent, like all of highlights, without "
        "--highlight.",
        ("tenant", "cause"),
        {(tenant, cause): totals.ended[tenant, cause] for tenant in tenants for cause in _ENDS},
    )
    yield _counter("highlight_film_seconds", "Length of films that were sampled to their end.", totals.film_s)
    yield _counter("highlight_batches", "Batches of films' frames that were compared.", totals.num_batches)
    yield _counter(
        "highlight_device_seconds",
        "Time that these took, by the device's clock, beside chunks.",
        totals.device_ns / 1e9,
    )
    yield _labelled(
        GaugeMetricFamily,
        "highlight_readers",
        "Processes that may read films at a time (--highlight-readers): those that do, and room for others.",
        ("state",),
        {("held",): view.num_reading, ("free",): view.num_readers - view.num_reading},
    )


def _name(cause: Cause) -> str:
    return cause.name.lower()


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(_PREFIX + name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)


def _labelled(
    family: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Mapping[Any, float],
) -> Metric:
    made = family(_PREFIX + name, text, labels=labels)
    for each, value in values.items():
        made.add_metric(each, value)
    return made


def _histogram(
    name: str, text: str, histograms: dict[tuple[str, ...], Histogram], labels: tuple[str, ...] = ()
) -> Metric:
    made = HistogramMetricFamily(_PREFIX + name, text, labels=labels)
    for each, histogram in histograms.items():
        total, buckets = 0, []
        for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == inf else str(float(bound)), float(total)))
        made.add_metric(each, buckets, sum_value=histogram.sum)
    return made
