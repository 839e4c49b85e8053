"""OpenTelemetry spans of sessions' calls."""

import asyncio
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from framehaul.causes import Cause, Verdict
from framehaul_client.transport.spans import span_metadata
from framehaul_server.logs import SessionRecord
from framehaul_server.rpc.spans import open_spans
from tests.support.driven_service import serving, settle
from tests.support.fakes import latents, opening, request

CALLER = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def record(**fields: object) -> SessionRecord:
    made = SessionRecord(request_id="ab12", peer="ipv4:127.0.0.1:1", method="Stream", started_s=time.monotonic() - 10)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_a_call_is_a_span_below_its_callers(exporter: InMemorySpanExporter) -> None:
    """With its own wait for a place below it, its first frame, and what its time went to."""
    verdict = Verdict.of({Cause.DECODE: 6.0, Cause.COPY: 2.0})
    ended = record(first_frame_s=4.0, verdict=verdict, num_frames=8, model="tiny", queued_s=2.0)
    ended.queued_from_s = ended.started_s + 1
    open_spans()(ended, (CALLER, ("some-bin", b"\xff")))
    waited, span = exporter.get_finished_spans()
    assert (span.name, waited.name) == ("framehaul.v1.FrameService/Stream", "wait for a place")
    assert span.context is not None
    assert span.parent is not None
    assert waited.parent is not None
    assert f"{span.context.trace_id:032x}-{span.parent.span_id:016x}" in CALLER[1]
    assert waited.parent.span_id == span.context.span_id
    begun_ns, (event,) = span.start_time or 0, span.events
    assert event.name == "first frame"
    assert event.timestamp - begun_ns == pytest.approx(4e9, abs=2)
    assert (waited.start_time or 0) - begun_ns == pytest.approx(1e9, abs=2)
    assert (waited.end_time or 0) - begun_ns == pytest.approx(3e9, abs=2)
    assert (span.end_time or 0) - begun_ns >= 10e9
    found = span.attributes or {}
    assert found["framehaul.bound_by"] == "decode"
    assert found["framehaul.time_share.copy"] == 0.25
    assert (found["framehaul.frames"], found["framehaul.model"]) == (8, "tiny")
    assert "framehaul.tenant" not in found
    assert span.status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        ("ok", trace.StatusCode.UNSET),
        ("client_left", trace.StatusCode.UNSET),
        ("invalid_argument", trace.StatusCode.ERROR),
    ],
)
def test_failures_are_errors(exporter: InMemorySpanExporter, cause: str, status: trace.StatusCode) -> None:
    """A client that left is none; without a caller's span it has no parent."""
    open_spans()(record(cause=cause, details="width=0"), ())
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is status
    assert span.parent is None


def test_without_an_sdk_nothing_is_recorded() -> None:
    """The API alone has spans that nobody sees."""
    open_spans()(record(), (CALLER,))


def test_without_the_package_there_are_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no error."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    open_spans()(record(), (CALLER,))


def test_a_client_tells_of_the_span_that_is_current(exporter: InMemorySpanExporter) -> None:
    """And of nothing else."""
    del exporter
    assert span_metadata() == ()
    with trace.get_tracer("caller").start_as_current_span("render") as span:
        context = span.get_span_context()
        ((name, value),) = span_metadata()
        assert name == "traceparent"
        assert value.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")


def test_a_client_without_the_package_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't even looked for."""
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert span_metadata() == ()


@pytest.mark.asyncio
async def test_the_service_ends_a_span_with_each_call(exporter: InMemorySpanExporter) -> None:
    """Of a session that was served, and of one that was refused; below their callers'."""
    async with serving() as server:
        for first in (request(latents(2), open=opening()), request(latents(2), open=opening(model="wan"))):
            context, task = server.call()
            context.metadata = (CALLER,)
            context.send(first)
            await settle()
            context.half_close()
            await asyncio.gather(task, return_exceptions=True)
    served, refused = exporter.get_finished_spans()
    assert (served.attributes or {})["framehaul.frames"] == 8
    assert refused.status.status_code is trace.StatusCode.ERROR
    assert "wan" in (refused.status.description or "")
    assert served.parent is not None
    assert served.parent == refused.parent
