"""How many latents an EXPLICIT client may send, and when to tell it of more.

Pure.
"""

from __future__ import annotations

from framehaul_pipeline.spec import DecoderSpec

_MAX_LATENTS = 256


def latent_budget(spec: DecoderSpec, latent_bytes: int, budget_bytes: int, chunk_latents: int) -> int:
    """Latents that a session may have waiting in the server: two chunks at least, so that one can fill meanwhile."""
    least = 2 * chunk_latents + spec.lookahead_latents
    return max(least, min(_MAX_LATENTS, budget_bytes // latent_bytes))


class LatentGrant:
    """Latents below `until` may be sent: those the worker took over, and `budget` more."""

    __slots__ = ("_announced", "budget", "until")

    def __init__(self, budget: int, first_latent: int = 0) -> None:
        """Grant `budget` latents from `first_latent` on; `announce` is still to be called for them."""
        self.budget = budget
        self.until = first_latent + budget
        self._announced = 0

    def fed(self, num_fed: int) -> None:
        """Note that the worker took over `num_fed` latents in all."""
        self.until = max(self.until, num_fed + self.budget)

    @property
    def overdue(self) -> bool:
        """Whether the client knows of less than half of its room, so that telling it is worth a message."""
        return 2 * (self.until - self._announced) >= self.budget

    def repeat(self) -> int:
        """The value for the first response on a connection."""
        self._announced = self.until
        return self.until

    def announce(self) -> int:
        """The value for a response's `latents_until`; 0 when the client knows it already."""
        if self.until == self._announced:
            return 0
        self._announced = self.until
        return self.until
