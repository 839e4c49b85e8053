"""What the device is at, and for how long: pure, kept by the worker under its lock."""

from __future__ import annotations

from framehaul_pipeline.link.messages import RunningChunk


class Running:
    """Chunks, openings and batches of films between their launch and their end, oldest first."""

    def __init__(self) -> None:
        """Start with an idle device."""
        self._sizes: dict[tuple[int, int | None], tuple[int, int, bool]] = {}
        """Latents and samples, and whether those are mapped, by session and first latent; None for a session's opening,
        and a query's batch."""
        self._since_ns = 0
        """When the device turned to the oldest."""

    def __contains__(self, session: object) -> bool:
        """Whether a chunk of the session is on the device."""
        return any(owner == session for owner, first_latent in self._sizes if first_latent is not None)

    @property
    def num_chunks(self) -> int:
        """Chunks on the device."""
        return sum(first_latent is not None for _, first_latent in self._sizes)

    def begin(
        self,
        session: int,
        first_latent: int | None,
        num_latents: int,
        now_ns: int,
        *,
        num_samples: int = 0,
        mapped: bool = False,
    ) -> None:
        """Note that a chunk, or with None an opening or a query's batch, goes to the device."""
        if not self._sizes:
            self._since_ns = now_ns
        self._sizes[session, first_latent] = num_latents, num_samples, mapped

    def finish(self, session: int, first_latent: int | None, now_ns: int) -> None:
        """Note that it is done; the next one had to wait for it, so its time starts now."""
        if next(iter(self._sizes)) == (session, first_latent):
            self._since_ns = now_ns
        del self._sizes[session, first_latent]

    def oldest(self, now_ns: int) -> RunningChunk | None:
        """What the device has been at for longest; None when it is idle."""
        for (session, _), (num_latents, num_samples, mapped) in self._sizes.items():
            busy_ns = now_ns - self._since_ns
            return RunningChunk(
                session=session, num_latents=num_latents, num_samples=num_samples, mapped=mapped, busy_ns=busy_ns
            )
        return None
