"""How many latents the server takes now; pure."""

from __future__ import annotations


class LatentGrant:
    """The server's grant: latents below an index, which never falls, may be sent."""

    def __init__(self, next_latent: int = 0) -> None:
        """Start with nothing granted, and latents below `next_latent` sent."""
        self._until = next_latent
        self._next_latent = next_latent

    @property
    def next_latent(self) -> int:
        """Index of the latent that is sent next."""
        return self._next_latent

    @property
    def room(self) -> int:
        """Latents that may be sent now."""
        return self._until - self._next_latent

    def extend(self, until: int) -> bool:
        """Take note of a `latents_until`; the highest counts, and 0 means unchanged.

        Returns:
            Whether there is more room than before.
        """
        if until <= self._until:
            return False
        self._until = until
        return True

    def take(self, wanted: int, most: int) -> int:
        """Count up to `wanted` latents as sent, within the grant and at most `most`, and return how many."""
        num_latents = min(wanted, most, self.room)
        self._next_latent += num_latents
        return num_latents
