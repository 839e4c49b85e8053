"""Where a session's time goes: each moment is charged to what the next frame waits for then. Pure.

Times are nanoseconds of the system's monotonic clock, which the worker's are as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from framehaul.causes import Cause
from framehaul_pipeline.link.messages import ChunkTimes

_REPORT_NS: Final = 10_000_000_000
"""How long a client may take for frames before it acknowledges them and reports."""

OnInterval = Callable[[Cause, int, int], None]
"""Hears of a cause, and of the time from and to which it held."""


class TimeAccount:
    """One session's time, from its opening to its end.

    What a chunk's time in the worker went to is known when it is published. What a client's time went to is known when
    it acknowledges: it reports how long it has worked on frames. Until then such time is only noted, for 10 s: what is
    older than that is charged to the client's window, so that clients that have stopped are seen.
    """

    def __init__(self, now_ns: int, on_interval: OnInterval) -> None:
        """Charge what follows."""
        self._until_ns = now_ns
        """All before it is charged or noted."""
        self._charged_ns: Counter[Cause] = Counter()
        self._with_client: list[tuple[int, int]] = []
        """Intervals in which the client had frames, since its last report."""
        self._client_busy_ns = 0
        self._on_interval = on_interval

    @property
    def seconds(self) -> Mapping[Cause, float]:
        """Charged to each cause so far; what is with the client, and not reported on, to its window."""
        found = Counter(self._charged_ns)
        found[Cause.CLIENT_WINDOW] += sum(end - start for start, end in self._with_client)
        return {cause: ns / 1e9 for cause, ns in found.items() if ns}

    def charge(self, now_ns: int, cause: Cause) -> None:
        """Charge the time since the last charge to `cause`."""
        start_ns, self._until_ns = self._until_ns, max(self._until_ns, now_ns)
        if start_ns == self._until_ns:
            return
        if cause is not Cause.CLIENT_WINDOW:
            self._charge(cause, start_ns, self._until_ns)
        elif self._with_client and self._with_client[-1][1] == start_ns:
            self._with_client[-1] = (self._with_client[-1][0], self._until_ns)
        else:
            self._with_client.append((start_ns, self._until_ns))
        self._give_up_before(self._until_ns - _REPORT_NS)

    def charge_chunk(self, now_ns: int, times: ChunkTimes) -> None:
        """Charge the time since the last charge to the stages of a chunk that is published now.

        Before its launch it waited for a slot, or for other sessions' chunks. What is left, of earlier chunks say that
        gave no frames, is the decoder's.
        """
        before = Cause.SHARED if times.shared else Cause.DECODE
        self.charge(times.launched_ns - times.slot_wait_ns, before)
        self.charge(times.launched_ns, Cause.SLOTS)
        self.charge(times.turn_ns, before)
        self.charge(times.decoded_ns, Cause.DECODE)
        self.charge(now_ns, Cause.COPY)

    def report(self, client_busy_ns: int) -> None:
        """Take a client's word on how long it has worked on frames in all; time that is with the client is charged."""
        busy_ns = max(0, client_busy_ns - self._client_busy_ns)
        self._client_busy_ns = max(self._client_busy_ns, client_busy_ns)
        for start_ns, end_ns in self._with_client:
            split_ns = min(end_ns, start_ns + busy_ns)
            busy_ns -= split_ns - start_ns
            self._charge(Cause.CLIENT_ENCODER, start_ns, split_ns)
            self._charge(Cause.CLIENT_WINDOW, split_ns, end_ns)
        self._with_client.clear()

    def _give_up_before(self, limit_ns: int) -> None:
        """Charge what was noted before `limit_ns`: no report on it will come."""
        while self._with_client and self._with_client[0][0] < limit_ns:
            start_ns, end_ns = self._with_client.pop(0)
            self._charge(Cause.CLIENT_WINDOW, start_ns, min(end_ns, limit_ns))
            if end_ns > limit_ns:
                self._with_client.insert(0, (limit_ns, end_ns))

    def _charge(self, cause: Cause, start_ns: int, end_ns: int) -> None:
        if start_ns < end_ns:
            self._charged_ns[cause] += end_ns - start_ns
            self._on_interval(cause, start_ns, end_ns)
