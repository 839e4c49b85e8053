"""Shares of something between tenants: pure; device time in the worker, places in the inlet in the server.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), on costs that were measured rather than foreseen: a
tenant's clock runs with what it has had, divided by its weight, and whose clock is least is served next.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Clock:
    weight: float = 1.0
    time: float = 0.0
    num_sessions: int = 0


class Shares:
    """The tenants' clocks. Remembers every tenant it has seen; these come from the operator's own list."""

    def __init__(self, credit: float) -> None:
        """Start without tenants.

        Args:
            credit: how far a tenant that pauses may fall behind the others, to catch up later. Without any, the gaps
                between its requests would cost it its share; with much, it could save up and keep the others out.
        """
        self._credit = credit
        self._clocks: dict[str, _Clock] = {}
        self._now = 0.0
        """The clock of those who are served; never goes back."""
        self.num_tenants = 0
        """Those with sessions."""

    def open(self, tenant: str, weight: float) -> None:
        """Count a session; with its first one a tenant starts level with those who are served, or where it left."""
        clock = self._clocks.setdefault(tenant, _Clock())
        clock.weight = weight
        clock.num_sessions += 1
        if clock.num_sessions == 1:
            clock.time = max(clock.time, self._now)
            self.num_tenants += 1

    def close(self, tenant: str) -> None:
        """A session that was counted is over."""
        clock = self._clocks[tenant]
        clock.num_sessions -= 1
        self.num_tenants -= clock.num_sessions == 0

    def order(self, tenant: str) -> float:
        """Sorts tenants: what is smaller is served first."""
        return max(self._clocks[tenant].time, self._now - self._credit)

    def serve(self, tenant: str) -> None:
        """This tenant is served now."""
        clock = self._clocks[tenant]
        clock.time = self.order(tenant)
        self._now = max(self._now, clock.time)

    def charge(self, tenant: str, cost: float) -> None:
        """Count what serving this tenant has cost."""
        clock = self._clocks[tenant]
        clock.time += cost / clock.weight
