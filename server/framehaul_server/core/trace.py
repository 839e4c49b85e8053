"""What a trace tells: the recorder's events and the sessions, as messages. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import CAUSES
from framehaul_pipeline.link.messages import Kernels, Published
from framehaul_server.core.recorder import Event, Kind
from framehaul_server.core.session_view import SessionView

MAX_EVENTS: Final = 16_384
"""That wait to be told."""
_KINDS: Final = {kind: pb.TraceEventKind.Value(f"TRACE_EVENT_KIND_{kind.name}") for kind in Kind}


class EventQueue:
    """Events that wait to be told; those that find it full are counted and left out."""

    def __init__(self, most: int = MAX_EVENTS) -> None:
        """Hold at most so many."""
        self._most = most
        self._events: deque[Event] = deque()
        self.num_dropped = 0

    def put(self, event: Event) -> None:
        """Add an event."""
        if len(self._events) < self._most:
            self._events.append(event)
        else:
            self.num_dropped += 1

    def take(self, most: int) -> list[Event]:
        """The oldest, at most so many."""
        return [self._events.popleft() for _ in range(min(most, len(self._events)))]


def event_message(event: Event) -> pb.TraceEvent:
    """An event of the recorder."""
    return pb.TraceEvent(
        kind=_KINDS[event.kind],
        session=event.session,
        start_ns=event.start_ns,
        end_ns=event.end_ns,
        first=event.first,
        count=event.count,
        cause=pb.CAUSE_UNSPECIFIED if event.cause is None else CAUSES[event.cause],
        chunk=None if event.published is None else _chunk_message(event.published),
    )


def session_message(view: SessionView) -> pb.TraceSession:
    """A session now."""
    return pb.TraceSession(
        number=view.number,
        request_id=view.request_id,
        tenant=view.tenant,
        model=view.model,
        width=view.width,
        height=view.height,
        latents_waiting=max(0, view.num_latents - view.num_fed),
        frames_waiting=max(0, view.num_published - view.num_taken),
        window_frames=max(0, view.frames_until - view.num_taken),
    )


def kernels_message(kernels: Kernels) -> pb.TraceKernels:
    """Some of the device's kernels."""
    names, start_ns, duration_ns, stream = zip(*kernels.rows, strict=True) if kernels.rows else ((), (), (), ())
    return pb.TraceKernels(
        names=kernels.names,
        name=names,
        start_ns=start_ns,
        duration_ns=duration_ns,
        stream=stream,
        left_out=kernels.left_out,
    )


def _chunk_message(published: Published) -> pb.TraceChunk:
    times = published.times
    return pb.TraceChunk(
        first_latent=published.first_latent,
        num_latents=sum(published.chunks),
        turn_ns=times.turn_ns,
        decoded_ns=times.decoded_ns,
        copied_ns=times.copied_ns,
        kernels_ns=times.kernels_ns,
        slot_wait_ns=times.slot_wait_ns,
    )
