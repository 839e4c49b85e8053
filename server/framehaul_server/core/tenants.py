"""On whose behalf a call is made, and what it may use. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from framehaul.wire import MAX_PRIORITY
from framehaul_pipeline.errors import InvalidInput

MAX_QUEUED: Final = 1000
"""Each change of the queue looks at all who wait, and tells those who have moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Those who share a token, and their limits; None: no limit but the server's own."""

    name: str
    weight: float = 1.0
    """Share of the device against other tenants that want it at the same priority."""
    max_sessions: int | None = None
    max_queued: int | None = None
    """Sessions that may wait for a place."""
    max_waiting_bytes: int | None = None
    """Latents and frames that the server may hold for all sessions together."""
    max_priority: int = MAX_PRIORITY
    watch: bool = False
    """It may see the whole server: metrics, page and traces."""

    def check_priority(self, priority: int) -> None:
        """Refuse a session over the ceiling; it isn't lowered in silence.

        Raises:
            InvalidInput: names the ceiling.
        """
        if priority > self.max_priority:
            allowed = f"{-MAX_PRIORITY}..{self.max_priority} for tenant {self.name}"
            raise InvalidInput("open.priority", priority, allowed)


EVERYONE: Final = Tenant(name="everyone", watch=True)
"""The one tenant of a server without tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a call: made from its metadata where the call comes in, and from nothing that the client may choose.

    A session belongs to the caller that opened it. Whoever looks a session up by its id asks `owns`, and answers
    NOT_FOUND, as for an id that never was.
    """

    tenant: Tenant

    def owns(self, owner: Caller) -> bool:
        """Whether what `owner` opened is this caller's; names count, since limits may have changed in between."""
        return self.tenant.name == owner.tenant.name
