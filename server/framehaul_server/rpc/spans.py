"""OpenTelemetry spans: one for each call of a session, below its caller's. Runs on the event loop.

They are made when the call is over, of what its record has. Only with `opentelemetry-api`, and recorded only where
somebody has set up an SDK.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from framehaul import wire
from framehaul_server.access.callers import Metadata
from framehaul_server.logs import SessionRecord

EndSpan = Callable[[SessionRecord, Metadata], None]
_NO_ERRORS: Final = ("ok", "client_left", "cancelled")


def open_spans() -> EndSpan:
    """What is to be told of each call that is over, with its metadata."""
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        return lambda record, metadata: None
    tracer = trace.get_tracer("framehaul")

    def end(record: SessionRecord, metadata: Metadata) -> None:
        now_ns, now_s = time.time_ns(), time.monotonic()

        def wall_ns(at_s: float) -> int:
            return now_ns - round((now_s - at_s) * 1e9)

        span = tracer.start_span(
            f"{wire.SERVICE}/{record.method}",
            propagate.extract({key: value for key, value in metadata if isinstance(value, str)}),
            trace.SpanKind.SERVER,
            start_time=wall_ns(record.started_s),
        )
        if not span.is_recording():
            return
        for name, value in _attributes(record).items():
            span.set_attribute(name, value)
        if record.queued_from_s is not None and record.queued_s is not None:
            waited = tracer.start_span(
                "wait for a place", trace.set_span_in_context(span), start_time=wall_ns(record.queued_from_s)
            )
            waited.end(wall_ns(record.queued_from_s + record.queued_s))
        if record.first_frame_s is not None:
            span.add_event("first frame", timestamp=wall_ns(record.started_s + record.first_frame_s))
        if record.cause not in _NO_ERRORS:
            span.set_status(trace.StatusCode.ERROR, record.details)
        span.end(now_ns)

    return end


def _attributes(record: SessionRecord) -> dict[str, str | int | float]:
    """By OpenTelemetry's names for calls where there are any; what the log's line says besides."""
    found: dict[str, str | int | float | None] = {
        "rpc.system": "grpc",
        "rpc.service": wire.SERVICE,
        "rpc.method": record.method,
        "framehaul.request_id": record.request_id,
        "framehaul.cause": record.cause,
        "framehaul.tenant": record.tenant,
        "framehaul.model": record.model,
        "framehaul.size": record.size,
        "framehaul.frames": record.num_frames,
        "framehaul.latents": record.num_latents,
        "framehaul.bytes": record.sent_bytes,
    }
    if record.verdict is not None:
        found["framehaul.bound_by"] = record.verdict.bound_by.value
        found |= {f"framehaul.time_share.{cause.name.lower()}": share for cause, share in record.verdict.shares.items()}
    return {name: value for name, value in found.items() if value is not None}
