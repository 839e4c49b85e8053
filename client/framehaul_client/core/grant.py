"""How many latents the server takes now; pure."""

from __future__ import annotations


class LatentGrant:
    """The server's grant: latents below an index, which never falls, may be sent."""

    def __init__(self, next_latent: int = 0) -> None:
        """Start with nothing granted, and latents below `next_latent` sent."""
        self._until = next_latent
        self.next_latent = next_latent
        """Index of the latent that is sent next."""

    @property
    def room(self) -> int:
        """Latents that may be sent now."""
        return self._until - self.next_latent

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
        self.next_latent += num_latents
        return num_latents
