"""Which latent goes into the inlet next: pure, run by the server.

A session's latents wait here, as views of the messages they came in, until their frames fit the session's window and
the inlet has a slot for them. Because only such latents are handed over, the worker uses every one of them in bounded
time: a client that stops reading holds no inlet slot, and no frame slot.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field

from framehaul_pipeline.fairness import Shares


@dataclass(slots=True, eq=False)
class Feed:
    """One session's latents on their way to the inlet."""

    session: int
    order: tuple[int, int]
    """Sorts a tenant's sessions: what is smaller is served first."""
    tenant: str = ""
    weight: float = 1.0
    waiting: deque[memoryview] = field(default_factory=deque)
    num_pushed: int = 0
    num_fed: int = 0
    num_in_inlet: int = 0
    num_allowed: int = 0
    """Latents whose frames fit the session's window."""
    ended: bool = False
    end_fed: bool = False

    @property
    def has_latent(self) -> bool:
        """A latent waits and may go."""
        return bool(self.waiting) and self.num_fed < self.num_allowed

    @property
    def has_end(self) -> bool:
        """All latents went, and the worker has not been told that there are no more."""
        return self.ended and not self.waiting and not self.end_fed


@dataclass(frozen=True, slots=True)
class NextLatent:
    """`latent` goes into an inlet slot for `session`."""

    session: int
    index: int
    latent: memoryview


class Feeder:
    """All sessions' feeds, in the order of service.

    That is priority, then the tenant with the fewest chunks in the inlet for its weight, then arrival: so every tenant
    has latents in the worker, which shares the device out. Where the inlet is too small for all tenants at a time, they
    take turns (`fairness`). A chunk that was begun is filled up first, so that parts of many don't keep each other out.

    A session has at most `per_session` inlet slots, and as many are kept for the session that is first by priority and
    arrival: whatever the others hold, it goes on, and then the next one. The last `per_session` free ones are for it
    and for tenants with less than two chunks in the inlet, so that the many sessions of one can't fill it up.
    """

    def __init__(self, per_session: int) -> None:
        """Allow each session `per_session` inlet slots: two chunks, so that one can upload while one decodes."""
        self._per_session = per_session
        self._feeds: dict[int, Feed] = {}
        """By priority and arrival."""
        self._shares = Shares(credit=math.inf)
        self._chunk = max(1, per_session // 2)
        self._turn: Feed | None = None
        """Whose chunk was begun,"""
        self._num_left = 0
        """and how many latents it lacks."""
        self._held: Counter[str] = Counter()
        """Inlet slots of each tenant's open sessions."""

    def open(self, session: int, *, priority: int, tenant: str = "", weight: float = 1.0) -> Feed:
        """Add a session behind those of its tenant and priority; a higher `priority` is served first."""
        self._shares.open(tenant, weight)
        feed = self._feeds[session] = Feed(session, (-priority, session), tenant, weight)
        self._feeds = dict(sorted(self._feeds.items(), key=lambda item: item[1].order))
        return feed

    def get(self, session: int) -> Feed | None:
        """A session's feed, None once it is closed."""
        return self._feeds.get(session)

    def close(self, session: int) -> None:
        """Forget a session and the latents that wait for it; an unknown one is fine."""
        feed = self._feeds.pop(session, None)
        if feed is not None:
            self._turn = None if self._turn is feed else self._turn
            self._hold(feed, -feed.num_in_inlet)
            self._shares.close(feed.tenant)

    def returned(self, session: int) -> None:
        """An inlet slot of this session is free again; an unknown session is fine."""
        feed = self._feeds.get(session)
        if feed is not None:
            self._hold(feed, -1)

    def next_latent(self, num_free: int) -> NextLatent | None:
        """Take the latent that goes next, given `num_free` free inlet slots; None when there is none."""
        first = next(iter(self._feeds.values()), None)
        if first is None or not num_free:
            return None
        kept = self._per_session - first.num_in_inlet
        if num_free <= kept:
            return self._take(first) if self._is_able(first) else None
        turn, self._turn = self._turn, None
        if turn is not None and self._may_go(turn, first, num_free):
            return self._take(turn)
        able = [feed for feed in self._feeds.values() if self._may_go(feed, first, num_free)]
        if not able:
            return None
        self._num_left = self._chunk
        return self._take(able[0] if self._shares.num_tenants <= 1 else min(able, key=self._order))

    def _may_go(self, feed: Feed, first: Feed, num_free: int) -> bool:
        if not self._is_able(feed):
            return False
        return num_free > self._per_session or feed is first or self._held[feed.tenant] < 2 * self._chunk

    def _is_able(self, feed: Feed) -> bool:
        return feed.has_latent and feed.num_in_inlet < self._per_session

    def _order(self, feed: Feed) -> tuple[int, float, float, int]:
        rank, arrival = feed.order
        # The first two are everybody's: one decodes, one is ready to follow it.
        num_more = max(0, self._held[feed.tenant] // self._chunk - 1)
        return rank, num_more / feed.weight, self._shares.order(feed.tenant), arrival

    def _hold(self, feed: Feed, num_slots: int) -> None:
        feed.num_in_inlet += num_slots
        self._held[feed.tenant] += num_slots
        if not self._held[feed.tenant]:
            del self._held[feed.tenant]

    def _take(self, feed: Feed) -> NextLatent:
        latent = feed.waiting.popleft()
        index = feed.num_fed
        feed.num_fed += 1
        self._hold(feed, 1)
        self._shares.serve(feed.tenant)
        self._shares.charge(feed.tenant, len(latent))
        self._num_left -= 1
        self._turn = feed if self._num_left > 0 else None
        return NextLatent(feed.session, index, latent)

    def next_end(self) -> int | None:
        """Take a session whose end the worker must hear of; None when there is none."""
        for feed in self._feeds.values():
            if feed.has_end:
                feed.end_fed = True
                return feed.session
        return None
