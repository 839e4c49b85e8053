"""Reads a trace's file back: rows of slices, as they are drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf import proto
from google.protobuf.message import DecodeError

from framehaul.causes import Cause, Verdict
from framehaul_client.errors import InvalidOption
from framehaul_client.trace.tracks import perfetto_trace

_PACKET: Final = b"\x0a"
"""Stands before each packet: field 1 of a `Trace`, with its length."""
_CAUSES: Final = {cause.value: cause for cause in Cause}


@dataclass(slots=True)
class Slice:
    """Something that took from `start_ns` to `end_ns`."""

    name: str
    start_ns: int
    end_ns: int
    session: int = 0


@dataclass(slots=True)
class SessionRows:
    """What is drawn of a session."""

    name: str
    waits: list[Slice] = field(default_factory=list)
    sends: list[Slice] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """What is drawn of a trace."""

    start_ns: int | None = None
    about: dict[str, int | float | str] = field(default_factory=dict)
    sessions: list[SessionRows] = field(default_factory=list)
    rows: dict[str, list[Slice]] = field(default_factory=dict)
    """Those that aren't sessions', by their kind: `decode`, `copy`, `encode`."""

    @property
    def span_ns(self) -> tuple[int, int]:
        """From its beginning to its end, and not less than its slices."""
        rows = [*self.rows.values(), *(row for each in self.sessions for row in (each.waits, each.sends))]
        start_ns = min(each.start_ns for row in rows for each in row)
        end_ns = max(each.end_ns for row in rows for each in row)
        if self.start_ns is None:  # it was cut off
            return start_ns, end_ns
        return min(start_ns, self.start_ns), max(end_ns, self.start_ns + int(float(self.about["seconds"]) * 1e9))

    @property
    def verdict(self) -> Verdict | None:
        """What most of the sessions' time went to."""
        charged: Counter[Cause] = Counter()
        for session in self.sessions:
            for each in session.waits:
                if each.name in _CAUSES:
                    charged[_CAUSES[each.name]] += each.end_ns - each.start_ns
        return Verdict.of({cause: ns / 1e9 for cause, ns in charged.items()})

    def idle(self) -> list[tuple[int, int]]:
        """Where the device decoded nothing, from its first chunk to its last."""
        decoded = sorted((each.start_ns, each.end_ns) for each in self.rows.get("decode", ()))
        found, until_ns = [], decoded[0][1] if decoded else 0
        for start_ns, end_ns in decoded:
            if start_ns > until_ns:
                found.append((until_ns, start_ns))
            until_ns = max(until_ns, end_ns)
        return found


def read_trace(path: Path) -> Trace:
    """Read a file.

    Raises:
        InvalidOption: it can't be read, is no trace, or holds nothing that can be drawn.
    """
    reader = _Reader()
    try:
        with path.open("rb") as file:
            reader.read(file)
    except OSError as error:
        raise InvalidOption(f"{path}: {error.strerror or error}") from error
    except (DecodeError, ValueError, OverflowError, MemoryError) as error:
        raise InvalidOption(f"{path}: is no trace, or was cut off: name a file of client trace") from error
    if not reader.num_slices:
        raise InvalidOption(f"{path}: nothing happened in this trace: stream while it is made")
    return reader.trace


class _Reader:
    def __init__(self) -> None:
        self._pb = perfetto_trace()
        self.trace = Trace()
        self.num_slices = 0
        self._names: dict[int, str] = {}
        self._parents: dict[int, int] = {}
        self._open: dict[int, list[tuple[str, Slice]]] = {}
        """Of each track."""
        self._sessions: dict[int, SessionRows] = {}
        """By their group."""

    def read(self, file: Any) -> None:
        while tag := file.read(1):
            packet = proto.parse_length_prefixed(self._pb.TracePacket, file) if tag == _PACKET else None
            if packet is None:
                raise ValueError("no packet")
            if packet.HasField("track_descriptor"):
                track = packet.track_descriptor
                self._names[track.uuid], self._parents[track.uuid] = track.name, track.parent_uuid
            elif packet.HasField("track_event"):
                self._take(packet.track_event, packet.timestamp)

    def _take(self, event: Any, at_ns: int) -> None:
        kinds = self._pb.TrackEvent
        if event.type == kinds.TYPE_SLICE_BEGIN:
            kind = event.categories[0] if event.categories else ""
            session = next((each.int_value for each in event.debug_annotations if each.name == "session"), 0)
            begun = (kind, Slice(event.name, at_ns, at_ns, session))
            self._open.setdefault(event.track_uuid, []).append(begun)
        elif event.type == kinds.TYPE_SLICE_END and (opened := self._open.get(event.track_uuid)):
            kind, ended = opened.pop()
            ended.end_ns = at_ns
            self._keep(kind, ended, self._parents.get(event.track_uuid, 0))
        elif event.type == kinds.TYPE_INSTANT and list(event.categories) == ["about"]:
            self.trace.start_ns = at_ns
            for each in event.debug_annotations:
                self.trace.about[each.name] = getattr(each, each.WhichOneof("value"))

    def _keep(self, kind: str, ended: Slice, group: int) -> None:
        if kind in ("decode", "copy", "encode"):
            self.trace.rows.setdefault(kind, []).append(ended)
        elif kind in ("waits", "sends"):
            session = self._sessions.get(group)
            if session is None:
                session = self._sessions[group] = SessionRows(self._names.get(group, ""))
                self.trace.sessions.append(session)
            (session.waits if kind == "waits" else session.sends).append(ended)
        else:
            return
        self.num_slices += 1
