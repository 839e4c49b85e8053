"""A worker's session on behalf of one of ours: the whole of it, or what follows a worker's death or a `start_frame`.

Runs on the event loop. Translates between the clip's latents and the worker session's, which are counted as they are
pushed; frames are numbered by the clip on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from framehaul_pipeline.errors import PipelineError
from framehaul_pipeline.supervision.lease import FrameLease
from framehaul_server.core.journal import Plan
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.core.tenants import Tenant
from framehaul_server.session.worker_link import WorkerHandle, WorkerOpener


@dataclass(slots=True)
class PublishedChunk:
    """A published chunk in the clip's indices; `view` is readable only during the call that gets it."""

    first_latent: int
    chunks: tuple[int, ...]
    first_frame: int
    num_frames: int
    frame_bytes: int
    crc32c: tuple[int, ...]
    view: memoryview

    def part_from(self, frame: int) -> PublishedChunk | None:
        """The frames from `frame` on; None when there are none. The caller releases its view."""
        skipped = max(0, frame - self.first_frame)
        if skipped >= self.num_frames:
            return None
        return PublishedChunk(
            self.first_latent,
            self.chunks,
            self.first_frame + skipped,
            self.num_frames - skipped,
            self.frame_bytes,
            self.crc32c[skipped:],
            self.view[skipped * self.frame_bytes :],
        )


class DecodingEvents(Protocol):
    """What a session hears of its decoding, in the clip's indices."""

    def on_fed(self, num_fed: int) -> None:
        """The worker took over all latents below this one."""

    def on_published(self, chunk: PublishedChunk) -> None:
        """Frames are ready, to be copied now."""

    def on_ended(self, num_frames: int) -> None:
        """The last chunk was published; the clip has `num_frames`."""

    def on_failed(self, error: PipelineError) -> None:
        """The worker can't go on; nothing follows."""


class Decoding:
    """One worker session."""

    def __init__(
        self,
        worker: WorkerOpener,
        request: OpenRequest,
        tenant: Tenant,
        plan: Plan,
        events: DecodingEvents,
        *,
        alone_until: int | None,
    ) -> None:
        """Open it and push the latents of `plan`; the worker is at work for it alone until this frame is published.

        Raises:
            Unavailable: no worker is ready.
        """
        self._events = events
        self._first_latent = self._next_latent = plan.first_latent
        self._handle: WorkerHandle = worker.open(
            model=request.spec.name,
            geometry=request.geometry,
            num_latents=None if request.num_latents is None else request.num_latents - plan.first_latent,
            dtype=request.dtype,
            normalized=request.normalized,
            pixel_format=request.pixel_format,
            priority=request.priority,
            tenant=tenant.name,
            weight=tenant.weight,
            first_latent=plan.first_latent,
            chunks=plan.chunks,
            alone_until=alone_until,
            events=self,
        )
        for latent in plan.latents:
            self._handle.push(latent)

    def push(self, latent: memoryview) -> None:
        """Queue the next latent; its memory is kept until `on_fed` counts it."""
        self._handle.push(latent)

    def allow(self, num_latents: int) -> None:
        """Let the latents below this one be decoded."""
        self._handle.allow(max(0, num_latents - self._first_latent))

    def end(self) -> None:
        """No more latents come."""
        self._handle.end()

    def close(self) -> None:
        """Drop it; no event comes after. Twice is fine."""
        self._handle.close()

    # The worker's events

    def on_opened(self) -> None:
        """Nothing to do: the client was answered when the session was accepted."""

    def on_fed(self, num_fed: int) -> None:
        """See `DecodingEvents`."""
        self._events.on_fed(self._first_latent + num_fed)

    def on_published(self, lease: FrameLease) -> None:
        """Hand the frames on and give the slot back."""
        first_latent = self._next_latent
        self._next_latent += sum(lease.chunks)
        with lease:
            self._events.on_published(
                PublishedChunk(
                    first_latent,
                    lease.chunks,
                    lease.first_frame,
                    lease.num_frames,
                    lease.frame_bytes,
                    lease.crc32c,
                    lease.view,
                )
            )

    def on_ended(self, num_frames: int) -> None:
        """See `DecodingEvents`."""
        self._events.on_ended(num_frames)

    def on_failed(self, error: PipelineError) -> None:
        """See `DecodingEvents`."""
        self._events.on_failed(error)
