"""What the server's sessions do: counters since its start, the last minute by seconds, and events for those who listen.

Pure, and for one thread: the event loop's. Times are nanoseconds of the system's monotonic clock.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from framehaul.causes import Cause
from framehaul_pipeline.errors import Lack
from framehaul_pipeline.link.messages import DeviceTime, Published
from framehaul_server.core.highlight_totals import HighlightTotals
from framehaul_server.core.rates import Rates
from framehaul_server.core.time_account import Interval

RECENT_S: Final = 60
_SECOND_NS: Final = 1_000_000_000
_ON_DEVICE: Final = frozenset({Cause.DECODE, Cause.SHARED})
"""While sessions wait for these, the device works."""
_OF_SERVER: Final = _ON_DEVICE | {Cause.COPY, Cause.SLOTS}
"""It's the server's turn."""


Look = Callable[[], list[Interval]]
"""Charges a session's time up to now, and gives what can't be charged yet, with what it will most likely go to."""


class Histogram:
    """Counts values below each of some bounds."""

    def __init__(self, *bounds: float) -> None:
        """Start empty, with these upper bounds and infinity."""
        self.bounds: tuple[float, ...] = (*bounds, float("inf"))
        self.counts = [0] * len(self.bounds)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Recent:
    """How much of each of the last `RECENT_S` seconds something held, or happened."""

    def __init__(self) -> None:
        """Start empty."""
        self._seconds: dict[int, Counter[Hashable]] = {}

    def add(self, what: Hashable, start_ns: int, end_ns: int) -> None:
        """Note that `what` held from `start_ns` to `end_ns`."""
        second = end_ns // _SECOND_NS
        if start_ns // _SECOND_NS == second:  # nearly always
            self._bucket(second)[what] += end_ns - start_ns
            return
        start_ns = max(start_ns, end_ns - RECENT_S * _SECOND_NS)
        while start_ns < end_ns:
            second = start_ns // _SECOND_NS
            until_ns = min(end_ns, (second + 1) * _SECOND_NS)
            self._bucket(second)[what] += until_ns - start_ns
            start_ns = until_ns

    def count(self, what: Hashable, number: int, now_ns: int) -> None:
        """Note that `what` happened so often."""
        self._bucket(now_ns // _SECOND_NS)[what] += number

    def _bucket(self, second: int) -> Counter[Hashable]:
        found = self._seconds.get(second)
        if found is None:
            found = self._seconds[second] = Counter()
            for old in [each for each in self._seconds if each < second - RECENT_S]:
                del self._seconds[old]
        return found

    def seconds(self, now_ns: int) -> list[Mapping[Hashable, int]]:
        """The last `RECENT_S` whole seconds, the oldest first."""
        now = now_ns // _SECOND_NS
        return [self._seconds.get(second, Counter()) for second in range(now - RECENT_S, now)]

    def sums(self, now_ns: int) -> Counter[Hashable]:
        """All of them together, and what there is of the present one."""
        now = now_ns // _SECOND_NS
        found: Counter[Hashable] = Counter()
        for second, counts in self._seconds.items():
            if second >= now - RECENT_S:
                found.update(counts)
        return found


class Kind(Enum):
    """What an event is about."""

    WAITED = "waited"
    """The session, for its next frame."""
    LATENTS = "latents"
    """They came."""
    CHUNK = "chunk"
    """Its frames came to the server."""
    SENT = "sent"
    """A message of frames was handed to the transport."""
    ACKNOWLEDGED = "acknowledged"
    """The client has consumed the frames below the first one."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that took from `start_ns` to `end_ns`, of a session; a moment when these are equal."""

    kind: Kind
    session: int
    start_ns: int
    end_ns: int
    first: int = 0
    """The first frame that it is about, or the first latent."""
    count: int = 0
    published: Published | None = None
    """Of a chunk."""
    cause: Cause | None = None
    """Of a wait."""


@dataclass(slots=True)
class Totals:
    """Since the server's start."""

    num_latents: int = 0
    """Received and checked."""
    num_frames: int = 0
    """Handed to the transport, each as often as that was tried."""
    num_bytes: int = 0
    num_resumed: int = 0
    """Sessions taken up again by a new connection."""
    num_replayed: int = 0
    """Frames that were sent again."""
    device_ns: int = 0
    """Chunks on the device."""
    kernels_ns: int = 0
    """Of it, from the first kernel of a chunk to its last one, by the device's clock."""
    num_decoded: int = 0
    """Frames."""
    charged_ns: Counter[Cause] = field(default_factory=Counter)
    """Of all sessions."""
    num_waits: Counter[Cause] = field(default_factory=Counter)
    """How often that was."""
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Calls of sessions by tenant and cause, as the log has it."""
    refused: Counter[Lack] = field(default_factory=Counter)
    """Of these, calls for which there was no room, by what there was none of."""
    highlights: HighlightTotals = field(default_factory=HighlightTotals)


class Recorder:
    """One server's."""

    def __init__(self, now_ns: int) -> None:
        """Start with an idle server."""
        self.started_ns = now_ns
        self.totals = Totals()
        self.recent = Recent()
        self.rates = Rates()
        seconds = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
        milliseconds = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
        self.first_frame_s = Histogram(*seconds)
        """From a session's first latents to its first frame handed to the transport."""
        self.queue_s = Histogram(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
        """Of sessions that waited in the queue, until they left it for whatever reason."""
        self.stages_s = {stage: Histogram(*milliseconds) for stage in ("wait", "decode", "copy", "publish")}
        """Of each chunk: before its turn on the device, its decoding, its copy, its checksum and way to the server."""
        self._numbers = itertools.count(1)
        self._sessions: dict[int, Look] = {}
        """Those that have begun and aren't over."""
        self._active_ns = 0
        """Since when there are sessions."""
        self._listeners: list[Callable[[Event], None]] = []

    @contextmanager
    def listening(self, listener: Callable[[Event], None]) -> Iterator[None]:
        """Let `listener` hear of each event meanwhile."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @property
    def num_sessions(self) -> int:
        """Those that have begun and aren't over."""
        return len(self._sessions)

    def begin(self, now_ns: int, look: Look = list) -> int:
        """A session begins, whose time so far is charged by `look`; gives its number here."""
        if not self._sessions:
            self._active_ns = now_ns
        number = next(self._numbers)
        self._sessions[number] = look
        return number

    def end(self, session: int, now_ns: int) -> None:
        """A session is over."""
        del self._sessions[session]
        if not self._sessions:
            self.recent.add("sessions", self._active_ns, now_ns)

    def charge_time(self) -> Recent:
        """Charge sessions' time up to now, as far as it is known what it went to; gives the rest of it."""
        rest = Recent()
        for look in list(self._sessions.values()):
            for cause, start_ns, end_ns in look():
                # A chunk that isn't there yet is on the device.
                rest.add(Cause.DECODE if cause is Cause.SHARED else cause, start_ns, end_ns)
        return rest

    def charge(self, session: int, cause: Cause, start_ns: int, end_ns: int, *, goes_on: bool = False) -> None:
        """A session has waited for `cause`; `goes_on`: it did so before, and this is the same wait."""
        self.totals.charged_ns[cause] += end_ns - start_ns
        self.totals.num_waits[cause] += not goes_on
        self.recent.add(cause, start_ns, end_ns)
        if self._listeners:
            self._tell(Event(Kind.WAITED, session, start_ns, end_ns, cause=cause))

    def latents(self, session: int, first: int, count: int, now_ns: int) -> None:
        """Latents came."""
        self.totals.num_latents += count
        if self._listeners:
            self._tell(Event(Kind.LATENTS, session, now_ns, now_ns, first, count))

    def decoded(self, time: DeviceTime, now_ns: int) -> None:
        """A chunk was on the device; its session may be gone."""
        self.totals.device_ns += time.device_ns
        self.totals.kernels_ns += time.kernels_ns
        self.rates.add(time)
        self.recent.add("device", now_ns - time.device_ns, now_ns)
        self.recent.add("kernels", now_ns - time.kernels_ns, now_ns)

    def chunk(self, session: int, published: Published, now_ns: int) -> None:
        """A chunk's frames came to the server."""
        times, stages = published.times, self.stages_s
        stages["wait"].observe((times.turn_ns - times.launched_ns + times.slot_wait_ns) / 1e9)
        stages["decode"].observe((times.decoded_ns - times.turn_ns) / 1e9)
        stages["copy"].observe((times.copied_ns - times.decoded_ns) / 1e9)
        stages["publish"].observe((now_ns - times.copied_ns) / 1e9)
        self.totals.num_decoded += published.num_frames
        if self._listeners:
            first, count = published.first_frame, published.num_frames
            self._tell(Event(Kind.CHUNK, session, times.launched_ns, now_ns, first, count, published))

    def sent(
        self, session: int, first: int, count: int, *, num_bytes: int, again: bool, start_ns: int, end_ns: int
    ) -> None:
        """A message of frames was handed to the transport, which took that long to take it."""
        totals = self.totals
        totals.num_frames += count
        totals.num_bytes += num_bytes
        totals.num_replayed += count if again else 0
        self.recent.count("frames", count, end_ns)
        if self._listeners:
            self._tell(Event(Kind.SENT, session, start_ns, end_ns, first, count))

    def acknowledged(self, session: int, next_frame: int, now_ns: int) -> None:
        """A client has consumed the frames below this one."""
        if self._listeners:
            self._tell(Event(Kind.ACKNOWLEDGED, session, now_ns, now_ns, next_frame))

    def ended(self, *, tenant: str | None, cause: str, lack: Lack | None) -> None:
        """A call of a session ended, as the log has it; for a `lack` of something, maybe."""
        self.totals.ended[tenant or "", cause] += 1
        if lack is not None:
            self.totals.refused[lack] += 1

    def seconds(self, now_ns: int) -> dict[Cause, float]:
        """What the server's last minute, or its time since the start, went to.

        While the device works that is decoding, for whomever. The rest of the time in which there are sessions goes to
        what these wait for besides.
        """
        rest = self.charge_time().sums(now_ns)
        found = self._went_to(self.recent.sums(now_ns), now_ns - self._window_ns(now_ns), now_ns, rest)
        return {cause: ns / 1e9 for cause, ns in found.items() if ns > 0}

    def timeline(self, now_ns: int) -> list[dict[Cause, float]]:
        """The same of each of the last `RECENT_S` whole seconds, the oldest first; those before the start are empty."""
        rest = self.charge_time().seconds(now_ns)
        first_ns = (now_ns // _SECOND_NS - RECENT_S) * _SECOND_NS
        found = []
        for index, (sums, rest_sums) in enumerate(zip(self.recent.seconds(now_ns), rest, strict=True)):
            end_ns = first_ns + (index + 1) * _SECOND_NS
            start_ns = max(end_ns - _SECOND_NS, min(self.started_ns, end_ns))
            went_to = self._went_to(sums, start_ns, end_ns, rest_sums)
            found.append({cause: ns / 1e9 for cause, ns in went_to.items() if ns > 0})
        return found

    def _went_to(
        self, sums: Mapping[Hashable, int], start_ns: int, end_ns: int, rest: Mapping[Hashable, int]
    ) -> dict[Cause, float]:
        window_ns, active_ns = end_ns - start_ns, self._active_in(sums, start_ns, end_ns)
        device_ns = min(sums.get("device", 0), active_ns)
        others = {cause: rest.get(cause, 0) + (cause not in _ON_DEVICE and sums.get(cause, 0)) for cause in Cause}
        waited_ns = sum(others.values())
        found = {Cause.DECODE: float(device_ns), Cause.IDLE: float(window_ns - active_ns)}
        left_ns = active_ns - device_ns
        if not waited_ns:
            found[Cause.IDLE] += left_ns
            return found
        for cause, ns in others.items():
            found[cause] = found.get(cause, 0.0) + left_ns * ns / waited_ns
        return found

    def _window_ns(self, now_ns: int) -> int:
        """How much time `recent` has."""
        return min(now_ns - self.started_ns, RECENT_S * _SECOND_NS + now_ns % _SECOND_NS)

    def _active_in(self, sums: Mapping[Hashable, int], start_ns: int, end_ns: int) -> int:
        """For how much of it there were sessions."""
        active_ns = sums.get("sessions", 0)
        if self.num_sessions:
            active_ns += max(0, end_ns - max(self._active_ns, start_ns))
        return min(active_ns, end_ns - start_ns)

    def speed_of_light(self, now_ns: int) -> float | None:
        """Frames a second that were made in the last minute, over those that the decoder's kernels alone would make.

        Only time counts in which it was the server's turn: that of the device, and of the rest of the time with
        sessions the share for which these waited for the server and not for their clients. None: there was none.
        """
        sums = self.recent.sums(now_ns)
        active_ns = self._active_in(sums, now_ns - self._window_ns(now_ns), now_ns)
        device_ns = min(sums["device"], active_ns)
        waits = {cause: sums[cause] for cause in Cause}
        server_ns = max(0, sum(waits[cause] for cause in _OF_SERVER) - device_ns)
        client_ns = sum(ns for cause, ns in waits.items() if cause not in _OF_SERVER)
        turn_ns = device_ns + (active_ns - device_ns) * server_ns / max(1, server_ns + client_ns)
        return min(sums["kernels"] / turn_ns, 1.0) if turn_ns else None

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)
