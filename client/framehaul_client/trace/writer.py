"""What server, worker and client did, as tracks of one file and on one clock: the server's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from framehaul.causes import Cause
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import CAUSES
from framehaul_client.core.events import Event
from framehaul_client.core.printable import printable
from framehaul_client.trace.tracks import TraceFile, Track

_CAUSES: Final = {number: cause for cause, number in CAUSES.items()}
NOT_KNOWN: Final = "not known yet"
"""Of a session whose chunk is not out when the trace ends, or whose client hasn't reported."""
_LATENT, _CHUNK, _FRAME = 1, 2, 3
"""What a flow follows."""
_OWN: Final = 0
"""Stands for the client's session, whatever numbers servers give it."""


def _flow(session: int, what: int, index: int) -> int:
    return ((session << 36 | index) << 2 | what) & (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Clock:
    """From this process's monotonic clock to the trace's."""

    offset_ns: int = 0
    error_ns: int = 0
    """By which it may be wrong."""

    @classmethod
    def between(cls, sent_ns: int, server_ns: int, received_ns: int) -> Clock:
        """Compare by one exchange: the server said `server_ns` somewhere between these two.

        Processes of one machine share their clock, so no difference is one when it can't be told from none.
        """
        error_ns = (received_ns - sent_ns + 1) // 2
        offset_ns = server_ns - (sent_ns + received_ns) // 2
        return cls(0 if abs(offset_ns) <= error_ns else offset_ns, error_ns)

    def __call__(self, here_ns: int) -> int:
        """The trace's time at `here_ns`."""
        return here_ns + self.offset_ns


class _SessionTracks:
    def __init__(self, file: TraceFile, server: int, told: pb.TraceSession) -> None:
        tenant = f" · {printable(told.tenant)}" if told.tenant else ""
        name = f"session {told.number} · {printable(told.model)} {told.width}x{told.height}{tenant}"
        group = file.group(name, server)
        self.until_ns: int | None = None
        """What it waited for is known up to here."""
        self.waits = file.track("waits for", group)
        self.latents = file.track("latents", group)
        self.sends = file.track("sends", group)
        self.acknowledged = file.track("acknowledged", group)
        self.levels = [
            file.counter(title, group, unit)
            for title, unit in (("latents waiting", "latents"), ("frames waiting", "frames"), ("window", "frames"))
        ]


class TraceWriter:
    """Writes a trace into a file as it comes; knows no more of it than its tracks."""

    def __init__(self, file: TraceFile, target: str) -> None:
        """Write a trace of the server at `target`."""
        self.file = file
        self._target = target
        self.clock = Clock()
        self._start_ns: int | None = None
        self._end_ns = 0
        self._num_dropped = 0
        self._started = pb.TraceStarted()
        self._own: set[str] | None = None
        self._server = 0
        self._sessions: dict[int, _SessionTracks] = {}
        self._foreign: set[int] = set()
        self._worker: dict[str, Track] = {}
        self._device = 0
        self._streams: dict[int, Track] = {}
        """Of the device."""
        self._client: dict[str, Track] = {}
        self._levels: list[int] = []
        self._decoded_ns = 0
        self._alive: set[int] = set()
        """Sessions that were there at the last look."""
        self._charged_ns: Counter[Cause] = Counter()
        self.left_out = ""
        """Why there is nothing of the server, or nothing more."""

    @property
    def begun(self) -> bool:
        """Whether there is anything."""
        return self._start_ns is not None

    @property
    def num_sessions(self) -> int:
        """How many sessions were told of."""
        return len(self._sessions)

    @property
    def seconds(self) -> dict[Cause, float]:
        """What their time went to."""
        return {cause: ns / 1e9 for cause, ns in self._charged_ns.items()}

    # What the server says

    def start(self, first: pb.TraceResponse, clock: Clock) -> None:
        """Begin with a server's first response."""
        self.clock = clock
        self._start_ns = first.now_ns
        self._started = first.started
        file = self.file
        self._server = file.process(
            "server", f"framehaul {printable(first.started.version)}", printable(first.started.device)
        )
        levels = file.group("rings and queue", self._server)
        self._levels = [
            file.counter(name, levels, "") for name in ("sessions", "queued", "frame slots in use", "inlet in use")
        ]
        process = file.process("worker", printable(first.started.device))
        worker = file.group("chunks", process)
        self._device = file.group("kernels", process)
        self._worker = {
            kind: file.track(name, worker)
            for kind, name in (
                ("launched", "waits for its turn"),
                ("decode", "decode"),
                ("copy", "copy to the host"),
                ("publish", "checksum, hand over"),
            )
        }

    def server(self, response: pb.TraceResponse) -> None:
        """Write what a response tells."""
        self._num_dropped = response.events_dropped
        if self._own is None:
            self._end_ns = response.now_ns
        if response.HasField("load"):
            self._alive = {each.number for each in response.sessions} & {*self._sessions}
        for session in response.sessions:
            self._take_session(session, response.now_ns)
        for event in response.events:
            if event.session in self._sessions:
                self._take_event(event)
        if response.HasField("load"):
            load = response.load
            values = (load.sessions, load.queued, load.slots_in_use, load.inlet_slots_in_use)
            for counter, value in zip(self._levels, values, strict=True):
                self.file.level(counter, response.now_ns, value)

        if response.HasField("kernels"):
            self._take_kernels(response.kernels)

    def _take_kernels(self, kernels: pb.TraceKernels) -> None:
        self._num_dropped += kernels.left_out
        names = [printable(name) for name in kernels.names]
        columns = (kernels.name, kernels.start_ns, kernels.duration_ns, kernels.stream)
        for name, start_ns, duration_ns, stream in zip(*columns, strict=False):
            track = self._streams.get(stream)
            if track is None:
                track = self._streams[stream] = self.file.track(f"stream {stream}", self._device)
            if name < len(names) and start_ns >= (self._start_ns or 0):
                self.file.slice(track, "kernel", names[name], start_ns, start_ns + duration_ns)

    def _take_session(self, told: pb.TraceSession, now_ns: int) -> None:
        if self._own is not None and told.request_id not in self._own and told.number not in self._sessions:
            return
        tracks = self._sessions.get(told.number)
        if tracks is None:
            tracks = self._sessions[told.number] = _SessionTracks(self.file, self._server, told)
        values = (told.latents_waiting, told.frames_waiting, told.window_frames)
        for counter, value in zip(tracks.levels, values, strict=True):
            self.file.level(counter, now_ns, value)

    def _take_event(self, event: pb.TraceEvent) -> None:
        tracks, number, file = self._sessions[event.session], event.session, self.file
        key = number if self._own is None else _OWN
        start_ns, end_ns = max(event.start_ns, self._start_ns or 0), event.end_ns
        if end_ns < start_ns:
            return
        self._end_ns = max(self._end_ns, end_ns)
        frames = range(event.first, event.first + event.count)
        if event.kind == pb.TRACE_EVENT_KIND_WAITED and (cause := _CAUSES.get(event.cause)) is not None:
            self._charged_ns[cause] += end_ns - start_ns
            tracks.until_ns = end_ns
            file.slice(tracks.waits, "waits", cause.value, start_ns, end_ns, notes={"session": number})
        elif event.kind == pb.TRACE_EVENT_KIND_LATENTS:
            file.moment(
                tracks.latents, "latents", _numbers("latents", frames), end_ns, flows=_flows(key, _LATENT, frames)
            )
        elif event.kind == pb.TRACE_EVENT_KIND_SENT:
            flows = _flows(key, _FRAME, frames[:1])
            notes = {"session": number}
            file.slice(tracks.sends, "sends", _numbers("frames", frames), start_ns, end_ns, flows=flows, notes=notes)
        elif event.kind == pb.TRACE_EVENT_KIND_ACKNOWLEDGED:
            file.moment(tracks.acknowledged, "acknowledged", f"frames below {event.first}", end_ns)
        elif event.kind == pb.TRACE_EVENT_KIND_CHUNK:
            self._take_chunk(event, key)

    def _take_chunk(self, event: pb.TraceEvent, key: int) -> None:
        chunk = event.chunk
        latents = range(chunk.first_latent, chunk.first_latent + chunk.num_latents)
        frames = range(event.first, event.first + event.count)
        whole = _flows(key, _CHUNK, frames[:1])
        # By the device's clock, where that is known: it begins with a chunk while the one before it is copied.
        begun_ns = chunk.decoded_ns - chunk.kernels_ns if chunk.kernels_ns else chunk.turn_ns
        begun_ns = max(begun_ns, self._decoded_ns)  # in truth too: when the host heard of an event is less exact
        self._decoded_ns = chunk.decoded_ns
        notes = {
            "session": event.session,
            "first latent": chunk.first_latent,
            "latents": chunk.num_latents,
            "first frame": event.first,
            "frames": event.count,
            "waited for a slot, ms": chunk.slot_wait_ns / 1e6,
        }
        name = _numbers("latents", latents)
        for kind, begin_ns, end_ns, flows in (
            ("launched", event.start_ns, begun_ns, ()),
            ("decode", begun_ns, chunk.decoded_ns, (*_flows(key, _LATENT, latents), *whole)),
            ("copy", chunk.decoded_ns, chunk.copied_ns, whole),
            ("publish", chunk.copied_ns, event.end_ns, (*whole, *_flows(key, _FRAME, frames))),
        ):
            begin_ns = max(begin_ns, self._start_ns or 0)
            if begin_ns <= end_ns:
                self.file.slice(self._worker[kind], kind, name, begin_ns, end_ns, flows=flows, notes=notes)

    # What this process does

    def only_own(self) -> None:
        """Leave out all sessions but those of this client's calls."""
        self._own = set()

    def client(self, event: Event) -> None:
        """Write what a session of this process did."""
        if not self._client:
            run = self.file.group("run", self.file.process("client"))
            self._client = {
                kind: self.file.track(name, run)
                for kind, name in (
                    ("latents", "latents sent"),
                    ("received", "frames received"),
                    ("consume", "frames in use"),
                    ("encode", "encoder"),
                    ("acknowledged", "acknowledged"),
                )
            }
        if event.name == "opened":
            if self._own is not None and event.request_id:
                self._own.add(event.request_id)
            return
        start_ns, end_ns = self.clock(event.start_ns), self.clock(event.end_ns)
        self._start_ns = start_ns if self._start_ns is None else self._start_ns
        self._end_ns = max(self._end_ns, end_ns)
        file, tracks, numbers = self.file, self._client, range(event.first, event.first + event.count)
        frame = _flows(_OWN, _FRAME, numbers[:1])
        if event.name == "latents":
            flows = _flows(_OWN, _LATENT, numbers)
            file.slice(tracks["latents"], "client latents", _numbers("latents", numbers), start_ns, end_ns, flows=flows)
        elif event.name == "frames":
            file.moment(tracks["received"], "received", _numbers("frames", numbers), end_ns, flows=frame)
        elif event.name == "acknowledged":
            file.moment(tracks["acknowledged"], "client acknowledged", f"frames below {event.first}", end_ns)
        else:
            name = _numbers("frames", numbers) if event.count else event.name
            kind = "consume" if event.name == "consume" else "encode"
            file.slice(tracks[kind], kind, name, start_ns, end_ns, flows=frame)

    def finish(self) -> None:
        """Note what there is to know about the trace."""
        start_ns = self._start_ns or 0
        for number in self._alive:
            tracks = self._sessions[number]
            begin_ns = tracks.until_ns or start_ns
            if begin_ns < self._end_ns:
                self.file.slice(tracks.waits, "waits", NOT_KNOWN, begin_ns, self._end_ns)
        notes: dict[str, int | float | str] = {
            "target": printable(self._target),
            "server": printable(self._started.version),
            "device": printable(self._started.device),
            "seconds": max(0, self._end_ns - start_ns) / 1e9,
            "clock": "the server's CLOCK_MONOTONIC" if self._started.version else "the client's CLOCK_MONOTONIC",
            "client's clock may be wrong by, us": self.clock.error_ns / 1e3,
            "events left out": self._num_dropped,
        }
        if self.left_out:
            notes["server's side left out"] = printable(self.left_out)
        about = self.file.track("about this trace", 0)
        self.file.moment(about, "about", "trace", start_ns, notes=notes)


def _flows(session: int, what: int, numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple(_flow(session, what, number) for number in numbers)


def _numbers(what: str, numbers: range) -> str:
    """Like "frames 3..5"."""
    if len(numbers) == 1:
        return f"{what.removesuffix('s')} {numbers[0]}"
    return f"{what} {numbers[0]}..{numbers[-1]}" if numbers else what
