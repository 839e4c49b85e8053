"""What the device is at, and for how long: pure, kept by the worker under its lock."""

from __future__ import annotations

from framehaul_pipeline.link.messages import RunningChunk


class Running:
    """Chunks and openings between their launch and their end, oldest first."""

    def __init__(self) -> None:
        """Start with an idle device."""
        self._num_latents: dict[tuple[int, int | None], int] = {}
        """By session and first latent; None for a session's opening."""
        self._since_ns = 0
        """When the device turned to the oldest."""

    def __contains__(self, session: object) -> bool:
        """Whether a chunk of the session is on the device."""
        return any(owner == session for owner, first_latent in self._num_latents if first_latent is not None)

    @property
    def num_chunks(self) -> int:
        """Chunks on the device."""
        return sum(first_latent is not None for _, first_latent in self._num_latents)

    def begin(self, session: int, first_latent: int | None, num_latents: int, now_ns: int) -> None:
        """Note that a chunk, or with None an opening, goes to the device."""
        if not self._num_latents:
            self._since_ns = now_ns
        self._num_latents[session, first_latent] = num_latents

    def finish(self, session: int, first_latent: int | None, now_ns: int) -> None:
        """Note that it is done; the next one had to wait for it, so its time starts now."""
        if next(iter(self._num_latents)) == (session, first_latent):
            self._since_ns = now_ns
        del self._num_latents[session, first_latent]

    def oldest(self, now_ns: int) -> RunningChunk | None:
        """What the device has been at for longest; None when it is idle."""
        for (session, _), num_latents in self._num_latents.items():
            return RunningChunk(session=session, num_latents=num_latents, busy_ns=now_ns - self._since_ns)
        return None
