"""How many sessions there may be, in all and for each tenant, and whether new ones are welcome.

Pure but for the `idle` event; runs on the event loop. Refusals are immediate: there is no hidden queue.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from framehaul_pipeline.errors import InvalidInput, Overloaded, Unavailable
from framehaul_server.tenants import Tenant

_RETRY_AFTER_S: Final = 1.0


@dataclass(slots=True)
class _Use:
    """What one tenant holds."""

    num_sessions: int = 0
    num_bytes: int = 0


class Admission:
    """Counts the places that sessions hold, and the bytes that may wait for each tenant's."""

    def __init__(self, max_sessions: int) -> None:
        """Allow `max_sessions` places."""
        self._max_sessions = max_sessions
        self._uses: defaultdict[str, _Use] = defaultdict(_Use)
        """By tenants' names; who holds nothing is not in it."""
        self.num_sessions = 0
        self._draining = False
        self.idle = asyncio.Event()
        """Set while no place is held."""
        self.idle.set()

    def check_open(self) -> None:
        """Refuse new work while draining.

        Raises:
            Unavailable: the server drains.
        """
        if self._draining:
            raise Unavailable("the server is draining: open the session elsewhere")

    def place(self) -> Place:
        """A place, not yet taken."""
        return Place(self)

    def drain(self) -> None:
        """Refuse every new session from now on."""
        self._draining = True

    def _take(self, tenant: Tenant) -> None:
        self.check_open()
        if self.num_sessions >= self._max_sessions:
            raise _overloaded(f"all {self._max_sessions} sessions of this server are in use")
        use = self._uses.get(tenant.name, _Use())
        if tenant.max_sessions is not None and use.num_sessions >= tenant.max_sessions:
            raise _overloaded(f"all {tenant.max_sessions} sessions of tenant {tenant.name} are in use")
        self._uses[tenant.name].num_sessions += 1
        self.num_sessions += 1
        self.idle.clear()

    def _reserve(self, tenant: Tenant, num_bytes: int) -> None:
        use, most = self._uses[tenant.name], tenant.max_waiting_bytes
        if most is not None and use.num_bytes + num_bytes > most:
            if num_bytes > most:
                raise InvalidInput("open", f"{num_bytes} waiting bytes", f"at most {most} for tenant {tenant.name}")
            raise _overloaded(
                f"this session may hold {num_bytes} waiting bytes, "
                f"and {use.num_bytes} of the {most} of tenant {tenant.name} are taken"
            )
        use.num_bytes += num_bytes

    def _release(self, tenant: Tenant, num_bytes: int) -> None:
        use = self._uses[tenant.name]
        use.num_sessions -= 1
        use.num_bytes -= num_bytes
        if use.num_sessions == 0:
            del self._uses[tenant.name]
        self.num_sessions -= 1
        if self.num_sessions == 0:
            self.idle.set()


def _overloaded(reason: str) -> Overloaded:
    return Overloaded(reason, retry_after_s=_RETRY_AFTER_S)


class Place:
    """A session's place, held from `take` until `release`."""

    __slots__ = ("_admission", "_num_bytes", "_tenant")

    def __init__(self, admission: Admission) -> None:
        """Start without a place."""
        self._admission = admission
        self._tenant: Tenant | None = None
        """Whose place is held."""
        self._num_bytes = 0

    def take(self, tenant: Tenant) -> None:
        """Take the place for a session of `tenant`.

        Raises:
            Overloaded: every place of the server, or of the tenant, is taken.
            Unavailable: the server drains.
        """
        self._admission._take(tenant)
        self._tenant = tenant

    def reserve(self, num_bytes: int) -> None:
        """Count `num_bytes` that may wait for this session, until `release`; once, after `take`.

        Raises:
            InvalidInput: more than the tenant may ever have.
            Overloaded: more than the tenant has left.
        """
        assert self._tenant is not None, "taken before"
        self._admission._reserve(self._tenant, num_bytes)
        self._num_bytes = num_bytes

    def release(self) -> None:
        """Give back what is held; without a place, or twice, is fine."""
        tenant, self._tenant = self._tenant, None
        if tenant is not None:
            self._admission._release(tenant, self._num_bytes)
