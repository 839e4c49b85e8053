"""What a session uses of the pipeline's supervisor: small enough that a test can stand in for it. Pure."""

from __future__ import annotations

from typing import Protocol

from framehaul.formats import LatentDtype, PixelFormat
from framehaul_pipeline.spec import DecoderSpec, Geometry
from framehaul_pipeline.supervision.events import SessionEvents


class WorkerHandle(Protocol):
    """See `framehaul_pipeline.supervision.supervisor.WorkerSession`."""

    def push(self, latent: memoryview) -> None:
        """Queue one latent; its memory is kept until `on_fed` counts it."""

    def allow(self, num_latents: int) -> None:
        """Let the first `num_latents` latents be decoded."""

    def end(self) -> None:
        """No more latents come."""

    def close(self) -> None:
        """Drop the session; no event comes after. Twice is fine."""


class WorkerOpener(Protocol):
    """See `framehaul_pipeline.supervision.supervisor.Supervisor`."""

    specs: tuple[DecoderSpec, ...]

    def open(
        self,
        *,
        model: str,
        geometry: Geometry,
        num_latents: int | None,
        dtype: LatentDtype,
        normalized: bool,
        pixel_format: PixelFormat,
        priority: int,
        tenant: str,
        weight: float,
        first_latent: int,
        chunks: tuple[int, ...],
        alone_until: int | None,
        events: SessionEvents,
    ) -> WorkerHandle:
        """Open a session that starts at `first_latent` of its clip, in chunks of these sizes; raises `Unavailable`.

        Where a worker died at work for it, nothing else is at work with it until frame `alone_until` is published.
        """
