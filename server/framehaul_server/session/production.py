"""Where a session's frames come from: its latents, decoded by one worker after another until they are all done.

Runs on the event loop. When a worker dies, the next one starts from the latents that the journal kept; frames that were
published before are decoded again, compared and dropped. A session that the worker was at work for is a suspect until
a new frame of it is published: its latents may be what killed it. Workers see to it that a suspect is at work alone, so
that the next death tells: it ends one that was alone, and no other.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from framehaul_pipeline.errors import (
    AtWork,
    DataLoss,
    PipelineError,
    Unavailable,
    WorkerLost,
    WorkerRestarting,
    WorkersKilled,
)
from framehaul_server.core.journal import Journal, Plan
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.core.tenants import Tenant
from framehaul_server.session.decoding import Decoding, PublishedChunk
from framehaul_server.session.worker_link import WorkerOpener


class ProductionEvents(Protocol):
    """What a session hears, in the clip's indices."""

    def on_fed(self, num_fed: int) -> None:
        """A worker took over all latents below this one, for the first time."""

    def on_frames(self, chunk: PublishedChunk) -> None:
        """New frames, to be copied now."""

    def on_ended(self, num_frames: int) -> None:
        """The clip has `num_frames`, and all were published."""

    def fail(self, error: PipelineError) -> None:
        """There will be no more frames."""


class Production:
    """One session's decoding, through workers' deaths."""

    def __init__(
        self,
        worker: WorkerOpener,
        request: OpenRequest,
        tenant: Tenant,
        events: ProductionEvents,
        *,
        journal_bytes: int,
    ) -> None:
        """Prepare; nothing is opened before `start`."""
        self._worker = worker
        self._request = request
        self._tenant = tenant
        self._events = events
        self._journal = Journal(request.spec, request.first_latent, max_bytes=journal_bytes)
        self._decoding: Decoding | None = None
        """None before the start, while there is no worker, and at the end."""
        self._started = False
        self._closed = False
        self.num_pushed = request.first_latent
        """All latents below this one were pushed."""
        self._num_fed = request.first_latent
        self._num_allowed = 0
        self._pushed_all = False
        self._next_frame = request.start_frame
        """Those below were published."""
        self._suspect = False
        """A worker died at work for it, and no new frame was published since."""

    def start(self) -> None:
        """Begin with the first latent needed; with the next worker, where the last one died a moment ago.

        Raises:
            Unavailable: no worker is ready, nor will one be.
        """
        plan = Plan(first_latent=self._request.first_latent, chunks=(), latents=())
        with suppress(WorkerRestarting):
            self._decoding = self._open(plan)
        self._started = True

    def push(self, latent: memoryview) -> None:
        """Queue the next latent."""
        self.num_pushed += 1
        # A copy: a view would keep the whole message that it came in.
        kept = memoryview(bytes(latent))
        self._journal.push(kept)
        if self._decoding is not None:
            self._decoding.push(kept)

    def allow(self, num_latents: int) -> None:
        """Let the latents below this one be decoded; never fewer than before."""
        self._num_allowed = num_latents
        if self._decoding is not None:
            self._decoding.allow(num_latents)

    def end(self) -> None:
        """No more latents come."""
        self._pushed_all = True
        if self._decoding is not None:
            self._decoding.end()

    def worker_ready(self) -> None:
        """Go on with a new worker where the old one died."""
        if self._started and not self._closed and self._decoding is None:
            self._rebuild()

    def close(self) -> None:
        """Drop everything; no event comes after. Twice is fine."""
        self._closed = True
        self._journal.clear()
        self._drop()

    # The decoding's events

    def on_fed(self, num_fed: int) -> None:
        """See `ProductionEvents`; an earlier worker may have had them already."""
        if num_fed > self._num_fed:
            self._num_fed = num_fed
            self._journal.fed(num_fed)
            self._events.on_fed(num_fed)

    def on_published(self, chunk: PublishedChunk) -> None:
        """Hand on the frames that are new."""
        try:
            self._journal.publish(chunk.first_latent, chunk.chunks, chunk.first_frame, chunk.crc32c)
        except DataLoss as error:
            self._events.fail(error)
            return
        wanted = chunk.part_from(self._next_frame)
        if wanted is not None:
            self._suspect = False
            self._next_frame = wanted.first_frame + wanted.num_frames
            self._events.on_frames(wanted)
            wanted.view.release()

    def on_ended(self, num_frames: int) -> None:
        """See `ProductionEvents`."""
        self.close()
        self._events.on_ended(num_frames)

    def on_failed(self, error: PipelineError) -> None:
        """Wait for the next worker if this one was lost."""
        self._drop()
        if isinstance(error, WorkerLost):
            guilty = self._suspect and error.at_work is AtWork.ALONE
            self._suspect |= error.at_work is not AtWork.NO
            if not guilty:
                return
            # Not UNAVAILABLE: clients would try again, and end one worker after another.
            error = WorkersKilled()
        self._events.fail(error)

    def _rebuild(self) -> None:
        num_frames = self._request.spec.num_frames(self.num_pushed)
        if self._pushed_all and self._next_frame == num_frames:
            self.on_ended(num_frames)  # the worker died before it could say so
            return
        plan = self._journal.plan()
        if plan is None:
            self._events.fail(
                Unavailable(
                    "the worker process ended, and not all latents that are needed to go on are kept: "
                    f"open a new session with start_frame={self._next_frame}"
                )
            )
            return
        self._decoding = self._open(plan)
        self._decoding.allow(self._num_allowed)
        if self._pushed_all:
            self._decoding.end()

    def _open(self, plan: Plan) -> Decoding:
        alone_until = self._next_frame if self._suspect else None
        return Decoding(self._worker, self._request, self._tenant, plan, self, alone_until=alone_until)

    def _drop(self) -> None:
        decoding, self._decoding = self._decoding, None
        if decoding is not None:
            decoding.close()
