"""Tenants' shares of the device, by weight: pure; worker and server keep the same clocks, each its own.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), on costs that were measured rather than foreseen: a
tenant's clock runs with what it has had, divided by its weight, and whose clock is least is served next. What is on its
way and not measured yet counts at the tenant's latest price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CREDIT_NS: Final = 1_000_000_000
"""A second of device time: a tenant's chunks come and go with its clients."""


@dataclass(slots=True, eq=False)
class _Clock:
    weight: float = 1.0
    time: float = 0.0
    num_sessions: int = 0
    num_held: int = 0
    price: float | None = None


class Shares:
    """The tenants' clocks. Remembers every tenant it has seen; these come from the operator's own list."""

    def __init__(self, credit: float) -> None:
        """Start without tenants.

        Args:
            credit: what a tenant that was served less than its share may make up for, in what it costs. Without any,
                the gaps between its requests would cost it its share; with much, it could save up and keep the others
                out.
        """
        self._credit = credit
        self._clocks: dict[str, _Clock] = {}
        self._now = 0.0
        """The clock of those who are served; never goes back."""
        self._price = 1.0
        """The latest of all: for tenants that have none yet."""
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
        clock = self._clocks[tenant]
        price = self._price if clock.price is None else clock.price
        return self._start(clock) + clock.num_held * price / clock.weight

    def hold(self, tenant: str, num_units: int) -> None:
        """So many units more are on their way; negative when they arrived, or won't."""
        self._clocks[tenant].num_held += num_units

    def charge(self, tenant: str, cost: float, num_units: int) -> None:
        """Count what serving this tenant has cost, for so many units."""
        clock = self._clocks[tenant]
        start = self._start(clock)
        self._now = max(self._now, start)
        clock.time = start + cost / clock.weight
        if num_units and cost:
            self._price = clock.price = cost / num_units

    def _start(self, clock: _Clock) -> float:
        return max(clock.time, self._now - self._credit / clock.weight)
