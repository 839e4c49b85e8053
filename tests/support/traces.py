"""Traces as Perfetto's own messages show them, and a server's answers to make some of."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2

from framehaul.causes import Cause
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import CAUSES

MS = 1_000_000


@dataclass
class Seen:
    """A slice, or a moment."""

    path: tuple[str, ...]
    """Names of its track and of those that hold it, the process first."""
    kind: str
    name: str
    start_ns: int
    end_ns: int
    flows: set[int]
    notes: dict[str, Any]


@dataclass
class Contents:
    """Of a file."""

    seen: list[Seen] = field(default_factory=list)
    levels: dict[str, list[int]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Seen]:
        return sorted((each for each in self.seen if each.kind == kind), key=lambda each: each.start_ns)

    @property
    def about(self) -> dict[str, Any]:
        (about,) = self.of("about")
        return about.notes


def read(path: Path) -> Contents:
    """Read it whole; on each track slices nest, as Perfetto wants it."""
    trace = perfetto_trace_pb2.Trace.FromString(path.read_bytes())
    found = Contents()
    names: dict[int, tuple[str, int]] = {}
    stacks: dict[int, list[Seen]] = {}
    kinds = perfetto_trace_pb2.TrackEvent
    for packet in trace.packet:
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            names[track.uuid] = (track.name or track.process.process_name, track.parent_uuid)
    for packet in sorted(
        (each for each in trace.packet if each.HasField("track_event")), key=lambda each: each.timestamp
    ):
        event, path_of = packet.track_event, _path(names, packet.track_event.track_uuid)
        notes = {each.name: getattr(each, each.WhichOneof("value")) for each in event.debug_annotations}
        if event.type == kinds.TYPE_COUNTER:
            found.levels.setdefault(path_of[-1], []).append(event.counter_value)
        elif event.type == kinds.TYPE_SLICE_END:
            stacks[event.track_uuid].pop().end_ns = packet.timestamp
        else:
            (kind,) = event.categories
            seen = Seen(path_of, kind, event.name, packet.timestamp, packet.timestamp, set(event.flow_ids), notes)
            found.seen.append(seen)
            if event.type == kinds.TYPE_SLICE_BEGIN:
                stack = stacks.setdefault(event.track_uuid, [])
                assert not stack, f"{event.name} begins within {stack}"
                stack.append(seen)
    assert not any(stacks.values())
    return found


def _path(names: dict[int, tuple[str, int]], track: int) -> tuple[str, ...]:
    name, parent = names[track]
    return (*(_path(names, parent) if parent else ()), name)


def numbers(seen: Seen) -> range:
    """Those of "frames 3..5"."""
    first, _, last = seen.name.rpartition(" ")[2].partition("..")
    return range(int(first), int(last or first) + 1)


STARTED = pb.TraceStarted(version="1.2", device="cuda:0")
SESSION = pb.TraceSession(
    number=7, request_id="abc", tenant="film", model="tiny", width=32, height=16, latents_waiting=1, frames_waiting=2
)


def waited(cause: Cause, start_ns: int, end_ns: int, session: int = 7) -> pb.TraceEvent:
    return pb.TraceEvent(
        kind=pb.TRACE_EVENT_KIND_WAITED, session=session, start_ns=start_ns, end_ns=end_ns, cause=CAUSES[cause]
    )


def chunk(launched_ns: int, begun_ns: int, decoded_ns: int, *, first: int = 0, session: int = 7) -> pb.TraceEvent:
    """Latent `first` and its 4 frames; copied in 2 ms, handed over in 1 ms."""
    return pb.TraceEvent(
        kind=pb.TRACE_EVENT_KIND_CHUNK,
        session=session,
        start_ns=launched_ns,
        end_ns=decoded_ns + 3 * MS,
        first=4 * first,
        count=4,
        chunk=pb.TraceChunk(
            first_latent=first,
            num_latents=1,
            turn_ns=begun_ns,
            decoded_ns=decoded_ns,
            copied_ns=decoded_ns + 2 * MS,
            kernels_ns=decoded_ns - begun_ns,
        ),
    )


def event(kind: int, at_ns: int, first: int, count: int, *, took_ns: int = 0, session: int = 7) -> pb.TraceEvent:
    return pb.TraceEvent(
        kind=kind,  # type: ignore[arg-type]
        session=session,
        start_ns=at_ns,
        end_ns=at_ns + took_ns,
        first=first,
        count=count,
    )
