"""One session's time: charged at each change to what it has waited for until then, and told to the server's recorder.

Runs on the event loop.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from framehaul.causes import Cause
from framehaul_pipeline.link.messages import Published
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.time_account import Interval, TimeAccount


class TimeKeeper:
    """From a session's place to its end."""

    def __init__(self, recorder: Recorder, waiting_for: Callable[[], Cause | None], *, reports: bool) -> None:
        """Prepare for a client that acknowledges frames if it `reports`.

        `waiting_for` says what the next frame waits for now, None: what a chunk in the worker will tell.
        """
        self._reports = reports
        self._recorder = recorder
        self._waiting_for = waiting_for
        self._account: TimeAccount | None = None
        self._ended = False
        self._charged_last: tuple[Cause, int] | None = None
        """A cause, and until when it held."""
        self._asked_ns: int | None = None
        """When its first latents came."""
        self._answered = False
        """Its client was sent a frame."""
        self.number = 0
        """The session's, in the recorder's events; 0 before it begins."""

    @property
    def seconds(self) -> Mapping[Cause, float]:
        """Charged to each cause so far, and what isn't yet."""
        if self._account is None:
            return {}
        found = Counter(self._account.charged_ns)
        for cause, start_ns, end_ns in self._uncharged(self._account):
            found[cause] += end_ns - start_ns
        return {cause: ns / 1e9 for cause, ns in found.items()}

    def _uncharged(self, account: TimeAccount) -> list[Interval]:
        """What isn't charged yet: the client may report, and a chunk may be on its way."""
        cause = None
        if not self._ended and self._waiting_for() is None:
            # Until a chunk is there, nobody can say whose the device was meanwhile.
            cause = Cause.SHARED if self._recorder.num_sessions > 1 else Cause.DECODE
        return account.uncharged(time.monotonic_ns(), cause)

    def begin(self) -> None:
        """The session has its place; again for each connection."""
        if self._account is not None:
            self.mark()
            return
        now_ns = time.monotonic_ns()
        self._account = account = TimeAccount(now_ns, self._charged, reports=self._reports)

        def look() -> list[Interval]:
            self.mark()
            return self._uncharged(account)

        self.number = self._recorder.begin(now_ns, look)

    def mark(self) -> None:
        """Charge the time up to now; call it before anything changes that the session may wait for."""
        if self._account is not None and not self._ended and (cause := self._waiting_for()) is not None:
            self._account.charge(time.monotonic_ns(), cause)

    def took(self, first_latent: int, num_latents: int, arrived_ns: int) -> None:
        """Latents were taken; by now the worker may be at them."""
        if self._asked_ns is None:
            self._asked_ns = arrived_ns
        self._recorder.latents(self.number, first_latent, num_latents, arrived_ns)

    def published(self, published: Published) -> None:
        """A chunk is about to be taken."""
        now_ns = time.monotonic_ns()
        if self._account is not None:
            self._account.charge_chunk(now_ns, published.times)
        self._recorder.chunk(self.number, published, now_ns)

    def sent(self, first_frame: int, num_frames: int, *, num_bytes: int, again: bool, start_ns: int) -> None:
        """Frames were handed to the transport, which took from `start_ns` to take them."""
        self.mark()
        now_ns = time.monotonic_ns()
        if self._asked_ns is not None and not self._answered:
            self._answered = True
            self._recorder.first_frame_s.observe((now_ns - self._asked_ns) / 1e9)
        self._recorder.sent(
            self.number, first_frame, num_frames, num_bytes=num_bytes, again=again, start_ns=start_ns, end_ns=now_ns
        )

    def acknowledged(self, next_frame: int, client_busy_ns: int) -> None:
        """An acknowledgement is about to be taken, with the client's report of how long it has worked on frames."""
        self.mark()
        if self._account is not None:
            self._account.report(client_busy_ns)
        self._recorder.acknowledged(self.number, next_frame, time.monotonic_ns())

    def end(self) -> None:
        """The session is over; twice is fine."""
        if self._account is None or self._ended:
            return
        now_ns = time.monotonic_ns()
        self._account.charge(now_ns, self._waiting_for() or Cause.DECODE)
        self._account.report(0)
        self._ended = True
        self._recorder.end(self.number, now_ns)

    def _charged(self, cause: Cause, start_ns: int, end_ns: int) -> None:
        goes_on = self._charged_last == (cause, start_ns)
        self._charged_last = (cause, end_ns)
        self._recorder.charge(self.number, cause, start_ns, end_ns, goes_on=goes_on)
