"""Who waits for a place, and in which order they are to have one. Pure.

The order is priority, then the tenants by the sessions that they hold for their weight, then arrival. It is that in
which all who wait would be served if places came free one by one and nothing else changed: each one that is counted
makes its tenant's next one count as having a session more. Which of a tenant's own is next is decided by when each was
first asked for, as its client says: that puts nobody before another tenant's.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from framehaul_server.core.tenants import Tenant


@dataclass(slots=True, eq=False)
class Waiting:
    """What is asked for, and by whom."""

    tenant: Tenant
    priority: int = 0
    """Higher is served first."""
    asked_ns: int = 0
    """When it was first asked for, by any one clock."""
    request_bytes: int = 0
    """Of the session's first request, kept meanwhile."""


WaitingT = TypeVar("WaitingT", bound=Waiting)


class AdmissionQueue(Generic[WaitingT]):
    """Bounded in number and in bytes, for all tenants together, and in number for each."""

    def __init__(self, max_length: int, max_bytes: int) -> None:
        """Let `max_length` wait, whose requests have `max_bytes` together."""
        self.max_length = max_length
        self._max_bytes = max_bytes
        self._waiting: dict[WaitingT, None] = {}
        """In order of arrival."""
        self._num_bytes = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __contains__(self, waiting: object) -> bool:
        """Whether this one waits."""
        return waiting in self._waiting

    def __iter__(self) -> Iterator[WaitingT]:
        """Those who wait, by arrival."""
        return iter(self._waiting)

    def max_length_for(self, tenant: Tenant) -> int:
        """How many of a tenant's may wait."""
        return self.max_length if tenant.max_queued is None else min(self.max_length, tenant.max_queued)

    def obstacle(self, waiting: WaitingT) -> str | None:
        """Why there is no room for this one to wait; None when there is."""
        if len(self._waiting) >= self.max_length:
            return f"all {self.max_length} places of its queue"
        tenant, num_allowed = waiting.tenant, self.max_length_for(waiting.tenant)
        if sum(other.tenant.name == tenant.name for other in self._waiting) >= num_allowed:
            return f"all {num_allowed} places of tenant {tenant.name} in its queue"
        if self._num_bytes + waiting.request_bytes > self._max_bytes:
            return (
                f"its queue holds {self._num_bytes} of {self._max_bytes} bytes of requests: "
                f"no room for {waiting.request_bytes} more"
            )
        return None

    def join(self, waiting: WaitingT) -> None:
        """Let one wait for whom there is no obstacle."""
        self._waiting[waiting] = None
        self._num_bytes += waiting.request_bytes

    def leave(self, waiting: WaitingT) -> None:
        """Let one who waits go."""
        del self._waiting[waiting]
        self._num_bytes -= waiting.request_bytes

    def order(self, num_held: Callable[[Tenant], int]) -> list[WaitingT]:
        """Those who wait, the next one first; `num_held` tells how many sessions a tenant has."""
        lanes: dict[str, list[tuple[int, int, int, WaitingT]]] = {}
        for arrival, waiting in enumerate(self._waiting):
            place = (-waiting.priority, waiting.asked_ns, arrival, waiting)
            lanes.setdefault(waiting.tenant.name, []).append(place)
        heads: list[tuple[int, float, int, str, int]] = []

        def push(name: str, index: int) -> None:
            rank, _, arrival, waiting = lanes[name][index]
            share = (num_held(waiting.tenant) + index) / waiting.tenant.weight
            heapq.heappush(heads, (rank, share, arrival, name, index))

        for name, lane in lanes.items():
            lane.sort(key=lambda place: place[:3])
            push(name, 0)
        found: list[WaitingT] = []
        while heads:
            *_, name, index = heapq.heappop(heads)
            found.append(lanes[name][index][-1])
            if index + 1 < len(lanes[name]):
                push(name, index + 1)
        return found
