"""A file of Perfetto packets: tracks, and slices, moments and levels on them. Each is written as it comes."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framehaul_client.errors import InvalidOption
from framehaul_client.sinks.base import PartialFile, output_error

if TYPE_CHECKING:
    from types import ModuleType

_SEQUENCE = 1
Notes = Mapping[str, int | float | str]


def perfetto_trace() -> ModuleType:
    """Perfetto's messages.

    Raises:
        InvalidOption: the package isn't installed.
    """
    try:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2
    except ImportError:
        raise InvalidOption("traces need the perfetto package: pip install 'framehaul[observe]'") from None
    return perfetto_trace_pb2  # type: ignore[no-any-return]


@dataclass(slots=True)
class Track:
    """Slices of one kind, in as many lanes as overlap: on one of Perfetto's tracks they may only nest."""

    name: str
    parent: int
    rank: int
    lanes: list[tuple[int, int]] = field(default_factory=list)
    """Of each its id, and where its last slice ended."""


class TraceFile:
    """Gets its name when it is published, and nobody sees it before."""

    def __init__(self, target: Path) -> None:
        """Create it.

        Raises:
            InvalidOption: there is no package to write it with.
            OutputError: it can't be written.
        """
        self._pb = perfetto_trace()
        from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

        self._partial = PartialFile(target)
        self._buffer = io.BufferedWriter(self._partial.file)
        self._builder = StreamingTraceProtoBuilder(self._buffer)
        self._ids = itertools.count(1)
        self._pids = itertools.count(1)
        self._ranks = itertools.count(1)
        self.num_events = 0

    def process(self, name: str, *labels: str) -> int:
        """Begin a process; gives its id. Perfetto sorts its tracks by name: their order is kept in a group."""
        made = next(self._ids)
        packet = self._builder.create_packet()
        track = packet.track_descriptor
        track.uuid, track.process.pid, track.process.process_name = made, next(self._pids), name
        track.process.process_labels.extend(labels)
        self._write(packet)
        return made

    def group(self, name: str, parent: int = 0) -> int:
        """Begin a track that holds others; gives its id."""
        return self._describe(name, parent, next(self._ranks))

    def track(self, name: str, parent: int) -> Track:
        """Prepare a track; it is written with its first slice."""
        return Track(name, parent, next(self._ranks))

    def counter(self, name: str, parent: int, unit: str) -> int:
        """Begin a track of levels; gives its id."""
        return self._describe(name, parent, next(self._ranks), unit=unit)

    def slice(
        self,
        track: Track,
        kind: str,
        name: str,
        start_ns: int,
        end_ns: int,
        *,
        flows: Iterable[int] = (),
        notes: Notes | None = None,
    ) -> None:
        """Write what took from `start_ns` to `end_ns`; `kind` is its category. Equal `flows` tie slices together."""
        lane = self._lane(track, start_ns, end_ns)
        event_type = self._pb.TrackEvent
        self._write_named(self._event(lane, start_ns, event_type.TYPE_SLICE_BEGIN), kind, name, flows, notes)
        self._write(self._event(lane, end_ns, event_type.TYPE_SLICE_END))

    def moment(
        self,
        track: Track,
        kind: str,
        name: str,
        at_ns: int,
        *,
        flows: Iterable[int] = (),
        notes: Notes | None = None,
    ) -> None:
        """Write what took no time."""
        lane = self._lane(track, at_ns, at_ns)
        self._write_named(self._event(lane, at_ns, self._pb.TrackEvent.TYPE_INSTANT), kind, name, flows, notes)

    def level(self, counter: int, at_ns: int, value: int) -> None:
        """Write how much there is."""
        packet = self._event(counter, at_ns, self._pb.TrackEvent.TYPE_COUNTER)
        packet.track_event.counter_value = value
        self._write(packet)

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            OutputError: the disk is full or failed, or the name can't be taken.
        """
        try:
            self._buffer.flush()
        except OSError as error:
            raise output_error(self._partial.target, error) from error
        self._partial.publish()

    def discard(self) -> None:
        """Delete the file, if it has no name yet; twice is fine."""
        if not self._partial.file.closed:
            with contextlib.suppress(OSError):  # of a full disk
                self._buffer.detach()
            self._partial.discard()

    def _lane(self, track: Track, start_ns: int, end_ns: int) -> int:
        for index, (lane, busy_until_ns) in enumerate(track.lanes):
            if busy_until_ns <= start_ns:
                track.lanes[index] = (lane, end_ns)
                return lane
        lane = self._describe(track.name, track.parent, track.rank)
        track.lanes.append((lane, end_ns))
        return lane

    def _describe(self, name: str, parent: int, rank: int, *, unit: str | None = None) -> int:
        made = next(self._ids)
        packet = self._builder.create_packet()
        track = packet.track_descriptor
        track.uuid, track.name, track.sibling_order_rank = made, name, rank
        track.child_ordering = self._pb.TrackDescriptor.EXPLICIT
        if parent:
            track.parent_uuid = parent
        if unit is not None:
            track.counter.unit_name = unit
        self._write(packet)
        return made

    def _event(self, track: int, at_ns: int, event_type: int) -> Any:
        packet = self._builder.create_packet()
        packet.timestamp = at_ns
        packet.track_event.type, packet.track_event.track_uuid = event_type, track
        return packet

    def _write_named(self, packet: Any, kind: str, name: str, flows: Iterable[int], notes: Notes | None) -> None:
        event = packet.track_event
        event.name = name
        event.categories.append(kind)
        event.flow_ids.extend(flows)
        _note(event, notes or {})
        self._write(packet)
        self.num_events += 1

    def _write(self, packet: Any) -> None:
        packet.trusted_packet_sequence_id = _SEQUENCE
        try:
            self._builder.write_packet(packet)
        except OSError as error:
            raise output_error(self._partial.target, error) from error


def _note(event: Any, notes: Notes) -> None:
    for name, value in notes.items():
        annotation = event.debug_annotations.add()
        annotation.name = name
        if isinstance(value, str):
            annotation.string_value = value
        elif isinstance(value, float):
            annotation.double_value = value
        else:
            annotation.int_value = value
