"""Where a session's time goes: each moment is charged to what the next frame waits for then. Pure.

Times are nanoseconds of the system's monotonic clock, which the worker's are as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from framehaul.causes import Cause
from framehaul_pipeline.link.messages import ChunkTimes

_WITH_CLIENT: Final = frozenset({Cause.CLIENT_WINDOW, Cause.NETWORK})
_REPORT_NS: Final = 10_000_000_000
"""How long a client may take for frames before it acknowledges them and reports."""

Interval = tuple[Cause, int, int]
"""A cause, and the time from and to which it held."""
OnInterval = Callable[[Cause, int, int], None]
"""Hears of one."""


class TimeAccount:
    """One session's time, from its opening to its end.

    What a chunk's time in the worker went to is known when it is published. What a client's time went to is known when
    it acknowledges: it reports how long it has worked on frames. Until then such time is only noted, for 10 s: what is
    older than that is charged as it was noted, so that clients that have stopped are seen.
    """

    def __init__(self, now_ns: int, on_interval: OnInterval, *, reports: bool) -> None:
        """Charge what follows; `reports`: the client acknowledges."""
        self._reports = reports
        self._until_ns = now_ns
        """All before it is charged or noted."""
        self.charged_ns: Counter[Cause] = Counter()
        self._noted: list[Interval] = []
        """Intervals in which the client had frames, or they were on their way, since its last report."""
        self._client_busy_ns = 0
        self._on_interval = on_interval

    def uncharged(self, now_ns: int, cause: Cause | None) -> list[Interval]:
        """What the client may report on, and the time since the last charge if `cause` is what it goes to."""
        if cause is None or now_ns <= self._until_ns:
            return list(self._noted)
        return [*self._noted, (cause, self._until_ns, now_ns)]

    def charge(self, now_ns: int, cause: Cause) -> None:
        """Charge the time since the last charge to `cause`."""
        start_ns, self._until_ns = self._until_ns, max(self._until_ns, now_ns)
        if start_ns == self._until_ns:
            return
        if not self._reports or cause not in _WITH_CLIENT:
            self._charge(cause, start_ns, self._until_ns)
        else:
            if self._noted and self._noted[-1][::2] == (cause, start_ns):
                start_ns = self._noted.pop()[1]
            self._noted.append((cause, start_ns, self._until_ns))
        self._give_up_before(self._until_ns - _REPORT_NS)

    def charge_chunk(self, now_ns: int, times: ChunkTimes) -> None:
        """Charge the time since the last charge to the stages of a chunk that is published now.

        Before its launch it waited for a slot, or for other sessions' chunks. What is left, of earlier chunks say that
        gave no frames, is the decoder's. Once it is published, it waits in its slot until the server takes its frames.
        """
        before = Cause.SHARED if times.shared else Cause.DECODE
        if times.slot_wait_ns:
            self.charge(times.launched_ns - times.slot_wait_ns, before)
            self.charge(times.launched_ns, Cause.SLOTS)
        if times.shared:
            self.charge(times.turn_ns, before)
        self.charge(times.decoded_ns, Cause.DECODE)
        self.charge(times.published_ns, Cause.COPY)
        self.charge(now_ns, Cause.SLOTS)

    def report(self, client_busy_ns: int) -> None:
        """Take a client's word on how long it has worked on frames in all; time that is with the client is charged."""
        busy_ns = max(0, client_busy_ns - self._client_busy_ns)
        self._client_busy_ns = max(self._client_busy_ns, client_busy_ns)
        for cause, start_ns, end_ns in self._noted:
            split_ns = min(end_ns, start_ns + busy_ns)
            busy_ns -= split_ns - start_ns
            self._charge(Cause.CLIENT_ENCODER, start_ns, split_ns)
            self._charge(cause, split_ns, end_ns)
        self._noted.clear()

    def _give_up_before(self, limit_ns: int) -> None:
        """Charge what was noted before `limit_ns`: no report on it will come."""
        while self._noted and self._noted[0][1] < limit_ns:
            cause, start_ns, end_ns = self._noted.pop(0)
            self._charge(cause, start_ns, min(end_ns, limit_ns))
            if end_ns > limit_ns:
                self._noted.insert(0, (cause, limit_ns, end_ns))

    def _charge(self, cause: Cause, start_ns: int, end_ns: int) -> None:
        if start_ns < end_ns:
            self.charged_ns[cause] += end_ns - start_ns
            self._on_interval(cause, start_ns, end_ns)
