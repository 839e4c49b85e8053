from dataclasses import replace

import pytest

from framehaul.causes import Cause
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.link.messages import ChunkTimes, Published
from framehaul_server.core.recorder import Event, Kind
from framehaul_server.core.session_view import SessionView
from framehaul_server.core.trace import EventQueue, event_message, session_message

TIMES = ChunkTimes(launched_ns=10, turn_ns=12, decoded_ns=15, copied_ns=17, kernels_ns=2, slot_wait_ns=4, shared=True)
PUBLISHED = Published(
    session=1,
    slot=0,
    generation=1,
    first_latent=3,
    chunks=(1, 2),
    first_frame=9,
    frame_bytes=1,
    crc32c=(0,) * 8,
    times=TIMES,
)
VIEW = SessionView(
    number=7,
    request_id="abc",
    tenant="film",
    model="tiny",
    width=32,
    height=16,
    pixel_format="rgb24",
    explicit=True,
    priority=0,
    state="served",
    num_latents=5,
    num_fed=3,
    num_published=9,
    num_taken=4,
    frames_until=20,
    waiting_for=Cause.DECODE,
    seconds={},
)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        *(
            (
                Event(Kind.WAITED, 7, 1, 2, cause=cause),
                {"kind": pb.TRACE_EVENT_KIND_WAITED, "cause": pb.Cause.Value(f"CAUSE_{cause.name}")},
            )
            for cause in Cause
        ),
        (Event(Kind.LATENTS, 7, 1, 2, 3, 4), {"kind": pb.TRACE_EVENT_KIND_LATENTS, "first": 3, "count": 4}),
        (Event(Kind.SENT, 7, 1, 2, 3, 4), {"kind": pb.TRACE_EVENT_KIND_SENT, "first": 3, "count": 4}),
        (Event(Kind.ACKNOWLEDGED, 7, 1, 2, 3), {"kind": pb.TRACE_EVENT_KIND_ACKNOWLEDGED, "first": 3}),
        (
            Event(Kind.CHUNK, 7, 1, 2, 9, 8, PUBLISHED),
            {
                "kind": pb.TRACE_EVENT_KIND_CHUNK,
                "first": 9,
                "count": 8,
                "chunk": pb.TraceChunk(
                    first_latent=3,
                    num_latents=3,
                    turn_ns=12,
                    decoded_ns=15,
                    copied_ns=17,
                    kernels_ns=2,
                    slot_wait_ns=4,
                ),
            },
        ),
    ],
)
def test_each_event_is_told(event: Event, told: dict[str, object]) -> None:
    assert event_message(event) == pb.TraceEvent(session=7, start_ns=1, end_ns=2, **told)  # type: ignore[arg-type]


def test_a_session_is_told_with_what_waits_in_it() -> None:
    """A worker that replays, or a client that resumes, never makes less than nothing wait."""
    named = {"number": 7, "request_id": "abc", "tenant": "film", "model": "tiny", "width": 32, "height": 16}
    full = pb.TraceSession(latents_waiting=2, frames_waiting=5, window_frames=16, **named)  # type: ignore[arg-type]
    assert session_message(VIEW) == full
    behind = replace(VIEW, num_fed=6, num_published=3, frames_until=1)
    assert session_message(behind) == pb.TraceSession(**named)  # type: ignore[arg-type]


def test_events_that_find_the_queue_full_are_counted() -> None:
    queue = EventQueue(2)
    for start_ns in range(5):
        queue.put(Event(Kind.SENT, 1, start_ns, start_ns))
    assert queue.num_dropped == 3
    assert [each.start_ns for each in queue.take(1)] == [0]
    queue.put(Event(Kind.SENT, 1, 9, 9))
    assert [each.start_ns for each in queue.take(9)] == [1, 9]
    assert queue.take(1) == []
