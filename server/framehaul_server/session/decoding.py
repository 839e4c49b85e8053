"""Where a session's frames come from: its latents, decoded by one worker after another until they are all done.

Runs on the event loop. When a worker dies, the next one starts from the latents that the journal kept; frames that were
published before are decoded again, compared and dropped. A session that the worker was at work for is a suspect until
a new frame of it is published: its latents may be what killed it. Workers see to it that a suspect is at work alone, so
that the next deaths tell: the third one that it was alone at ends it. Fewer may be chance, a hand from outside.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Protocol

import msgspec

from framehaul_pipeline.errors import (
    AtWork,
    DataLoss,
    PipelineError,
    Unavailable,
    WorkerLost,
    WorkerRestarting,
    WorkersKilled,
)
from framehaul_pipeline.link.messages import Opening, Published
from framehaul_pipeline.supervision.epoch import SessionEvents
from framehaul_server.core.journal import Journal, Replay
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.core.tenants import Tenant

_DEATHS_ALONE: Final = 3
"""At a session's work alone, without a new frame between, until it is ended.

Who kills workers does so each time. The system's or a person's kill falls into the same session's work twice by chance,
while the first one is still being repaired, but hardly three times.
"""


class WorkerHandle(Protocol):
    """What a session uses of a `WorkerSession`: small enough that a test can stand in for it."""

    def send_latent(self, latent: memoryview) -> None:
        """Send the next latent on its way; its memory is kept until `on_fed` counts it."""

    def allow(self, num_latents: int, *, num_wanted: int) -> None:
        """Let the latents below this one be decoded; the client waits for those below `num_wanted`, or soon will."""

    def end_latents(self) -> None:
        """No more latents come."""

    def drop(self) -> None:
        """Give back what the session holds; no event comes after. Twice is fine."""


class WorkerOpener(Protocol):
    """What a session uses of a `Supervisor`."""

    def open_session(self, opening: Opening, events: SessionEvents) -> WorkerHandle:
        """Open a session; raises `Unavailable`."""


class Decoding:
    """One session's decoding, through workers' deaths. Hears a worker's events, and passes on what is new."""

    def __init__(
        self, worker: WorkerOpener, request: OpenRequest, tenant: Tenant, events: SessionEvents, *, journal_bytes: int
    ) -> None:
        """Prepare; nothing is opened before `start`."""
        self._worker = worker
        self._opening = msgspec.structs.replace(request.opening, tenant=tenant.name, weight=tenant.weight)
        self._spec = request.spec
        self._events = events
        self._journal = Journal(request.spec, request.first_latent, max_bytes=journal_bytes)
        self._handle: WorkerHandle | None = None
        """None before the start, while there is no worker, and at the end."""
        self._started = False
        self._dropped = False
        self.num_latents = request.first_latent
        """All latents below this one came."""
        self._num_blanks = 0
        """That follow them."""
        self._num_fed = request.first_latent
        self._num_allowed = self._num_wanted = 0
        self._has_all = False
        """No more latents come."""
        self._next_frame = request.start_frame
        """Those below were published."""
        self._num_out = request.spec.num_frames(request.first_latent)
        """Frames of the clip below this one are out of the worker, whether anybody wants them or not."""
        self._suspect = False
        """A worker died at work for it, and no new frame was published since."""
        self._num_deaths_alone = 0
        """Of these, how many died at work for it alone."""

    @property
    def num_fed(self) -> int:
        """Latents, and blanks behind them, below this one a worker has taken over."""
        return self._num_fed

    @property
    def num_to_feed(self) -> int:
        """All latents that came, and the blanks behind them once no more come."""
        return self.num_latents + self._num_blanks

    @property
    def in_worker(self) -> bool:
        """Whether a worker has latents whose frames aren't out."""
        ended = self._has_all and self._num_fed == self.num_latents
        return self._spec.frames_after(self._num_fed, ended=ended) > self._num_out

    def start(self) -> None:
        """Begin with the first latent needed; with the next worker, where the last one died a moment ago.

        Raises:
            Unavailable: no worker is ready, nor will one be.
        """
        with suppress(WorkerRestarting):
            self._go_on()
        self._started = True

    def send_latent(self, latent: memoryview) -> None:
        """Send the next latent to the worker."""
        self.num_latents += 1
        # A copy: a view would keep the whole message that it came in.
        self._send(memoryview(bytes(latent)))

    def allow(self, num_latents: int, *, num_wanted: int) -> None:
        """Let the latents below this one be decoded, never fewer than before.

        The client waits for the frames of those below `num_wanted`, or soon will.
        """
        self._num_allowed, self._num_wanted = num_latents, num_wanted
        if self._handle is not None:
            self._handle.allow(num_latents, num_wanted=num_wanted)

    def end_latents(self) -> None:
        """No more latents come."""
        self._has_all = True
        self._num_blanks = self._spec.num_blanks if self.num_latents else 0
        for _ in range(self._num_blanks):
            self._send(memoryview(b""))
        if self._handle is not None:
            self._handle.end_latents()

    def worker_ready(self) -> None:
        """Go on with a new worker where the old one died."""
        if self._started and not self._dropped and self._handle is None:
            self._go_on()

    def drop(self) -> None:
        """Drop everything; no event comes after. Twice is fine."""
        self._dropped = True
        self._journal.clear()
        self._leave_worker()

    # The worker's events

    def on_fed(self, num_fed: int) -> None:
        """See `SessionEvents`; an earlier worker may have had them already."""
        if num_fed > self._num_fed:
            self._num_fed = num_fed
            if num_fed <= self.num_latents:
                self._journal.note_fed(num_fed)
                self._events.on_fed(num_fed)

    def on_published(self, published: Published, frames: memoryview) -> None:
        """Hand on the frames that are new."""
        try:
            self._journal.note_published(published)
        except DataLoss as error:
            self._events.on_failed(error)
            return
        self._num_out = max(self._num_out, published.next_frame)
        num_known = max(0, self._next_frame - published.first_frame)
        if num_known >= published.num_frames:
            return
        self._suspect = False
        self._num_deaths_alone = 0
        self._next_frame = published.next_frame
        with frames[num_known * published.frame_bytes :] as new:
            self._events.on_published(published.without_first(num_known), new)

    def on_ended(self, num_frames: int) -> None:
        """See `SessionEvents`."""
        self.drop()
        self._events.on_ended(num_frames)

    def on_failed(self, error: PipelineError) -> None:
        """Wait for the next worker if this one was lost."""
        self._leave_worker()
        if isinstance(error, WorkerLost):
            self._suspect |= error.at_work is not AtWork.NO
            self._num_deaths_alone += error.at_work is AtWork.ALONE
            if self._num_deaths_alone < _DEATHS_ALONE:
                return
            # Not UNAVAILABLE: clients would try again, and end one worker after another.
            error = WorkersKilled()
        self._events.on_failed(error)

    def _send(self, latent: memoryview) -> None:
        self._journal.keep(latent)
        if self._handle is not None:
            self._handle.send_latent(latent)

    def _go_on(self) -> None:
        num_frames = self._spec.num_frames(self.num_latents)
        if self._has_all and self._next_frame == num_frames:
            self.on_ended(num_frames)  # the worker died before it could say so
            return
        replay = self._journal.replay()
        if replay is None:
            self._events.on_failed(
                Unavailable(
                    "the worker process ended, and not all latents that are needed to go on are kept: "
                    f"open a new session with start_frame={self._next_frame}"
                )
            )
            return
        self._handle = handle = self._open(replay)
        for latent in replay.latents:
            handle.send_latent(latent)
        handle.allow(self._num_allowed, num_wanted=self._num_wanted)
        if self._has_all:
            handle.end_latents()

    def _open(self, replay: Replay) -> WorkerHandle:
        opening = msgspec.structs.replace(
            self._opening,
            first_latent=replay.first_latent,
            chunks=replay.chunks,
            alone_until=self._next_frame if self._suspect else None,
        )
        return self._worker.open_session(opening, self)

    def _leave_worker(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.drop()
