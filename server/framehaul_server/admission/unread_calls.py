"""Calls whose session is done with them, and whose clients haven't read how they ended. Pure; runs on the event loop.

gRPC keeps such a call, and the last message that was written to it, until the client reads on or leaves: a status
follows the messages before it, and nothing of grpc.aio ends a call without one. A client that lives can take its time,
so its tenant may have only so many of them.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from framehaul_pipeline.errors import Lack, Overloaded
from framehaul_server.core.tenants import Tenant

_SPARE: Final = 8
"""A client whose link freezes leaves a call behind each time it resumes, until a ping finds that out."""
_RETRY_AFTER_S: Final = 1.0


class UnreadCalls:
    """Counts them for each tenant, at most a few more than it may have sessions."""

    def __init__(self, max_sessions: int) -> None:
        """Count with `max_sessions` for tenants without a limit of their own."""
        self._max_sessions = max_sessions
        self._num_calls: Counter[str] = Counter()
        """By tenants' names."""

    @property
    def num_calls(self) -> int:
        """Of all tenants."""
        return self._num_calls.total()

    def begin(self, tenant: Tenant) -> bool:
        """Count a call, until `end`; whether the tenant may have it without holding a session's place for it."""
        self._num_calls[tenant.name] += 1
        return self._num_calls[tenant.name] <= self._most(tenant)

    def end(self, tenant: Tenant) -> None:
        """The client has read its status, or left."""
        self._num_calls[tenant.name] -= 1
        if not self._num_calls[tenant.name]:
            del self._num_calls[tenant.name]

    def check(self, tenant: Tenant) -> None:
        """Refuse what would end one more call and keep its session's place for another.

        Raises:
            Overloaded: the tenant has as many as it may.
        """
        most = self._most(tenant)
        if self._num_calls[tenant.name] >= most:
            raise Overloaded(
                f"{self._num_calls[tenant.name]} calls of tenant {tenant.name} have ended and their clients don't read "
                f"how, of at most {most}: read on, or cancel them",
                Lack.CALLS,
                retry_after_s=_RETRY_AFTER_S,
            )

    def _most(self, tenant: Tenant) -> int:
        return _SPARE + (self._max_sessions if tenant.max_sessions is None else tenant.max_sessions)
