"""What the server's sessions hear of their work. Pure."""

from __future__ import annotations

from typing import Protocol

from framehaul_pipeline.errors import PipelineError
from framehaul_pipeline.supervision.lease import FrameLease


class SessionEvents(Protocol):
    """What a session hears of its work; called on the event loop, and not after its handle is closed."""

    def on_opened(self) -> None:
        """The session has its place on the device."""
        ...

    def on_fed(self, num_fed: int) -> None:
        """The inlet has taken over `num_fed` latents since the session began: their memory is free again."""
        ...

    def on_published(self, lease: FrameLease) -> None:
        """A chunk is ready; whoever gets the lease releases it."""
        ...

    def on_ended(self, num_frames: int) -> None:
        """The last chunk was published; `num_frames` in all."""
        ...

    def on_failed(self, error: PipelineError) -> None:
        """The session can't go on; nothing follows."""
        ...
