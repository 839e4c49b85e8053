"""Which latent goes into the inlet next: pure, run by the server.

A session's latents wait here, as views of the messages they came in, until their frames fit the session's window and
the inlet has a slot for them. Because only such latents are handed over, the worker uses every one of them in bounded
time: a client that stops reading holds no inlet slot, and no frame slot.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from framehaul_pipeline.link.messages import DeviceTime, Opening
from framehaul_pipeline.scheduling.shares import CREDIT_NS, Shares


@dataclass(slots=True, eq=False)
class Feed:
    """One session's latents on their way to the inlet."""

    session: int
    priority: int
    """What is larger is served first."""
    asked_ns: int
    """Within a tenant and priority, what is smaller is served first."""
    tenant: str
    num_fed: int
    """Latents of the clip below this one went."""
    waiting: deque[memoryview] = field(default_factory=deque)
    num_in_inlet: int = 0
    latent_bytes: int = 0
    """Of each; known once one went."""
    num_allowed: int = 0
    """The frames of latents below this one fit the session's window."""
    num_wanted: int = 0
    """The client waits for the frames of latents below this one, or soon will."""
    ended: bool = False
    end_fed: bool = False

    @property
    def group(self) -> tuple[str, int]:
        """Tenant and priority."""
        return self.tenant, self.priority

    @property
    def has_latent(self) -> bool:
        """A latent waits and may go."""
        return bool(self.waiting) and self.num_fed < self.num_allowed

    @property
    def ahead(self) -> bool:
        """The next latent's frames would wait for the client, and not the client for them."""
        return self.num_fed >= self.num_wanted

    @property
    def has_end(self) -> bool:
        """All latents went, and the worker has not been told that there are no more."""
        return self.ended and not self.waiting and not self.end_fed


@dataclass(frozen=True, slots=True)
class NextLatent:
    """`latent` goes into an inlet slot for `session`."""

    session: int
    index: int
    """In its clip."""
    latent: memoryview


class Feeder:
    """All sessions' feeds, in the order of service.

    That is priority, then tenants by their shares of the device (`shares`), where latents in the inlet count as if
    they were decoded already, then those whose clients wait for frames, then age. So the inlet holds what is to be
    decoded next, and every tenant is found there when its turn comes, however many there are. A chunk that was begun
    is filled up first, so that parts of many don't keep each other out.

    A session has at most half of the inlet, three chunks or more: one decodes, one is ready to follow it, and one
    waits, so that a tenant's only session can have every turn. The last chunk's slots are for tenants with less than a
    chunk in the inlet. While no whole chunk lies there, they are for the session that is first by priority and arrival:
    whatever parts of chunks the others hold, it goes on, and then the next one.
    """

    def __init__(self, chunk_latents: int, num_slots: int) -> None:
        """Start without sessions, whose chunks have up to `chunk_latents`."""
        self._chunk = chunk_latents
        self._per_session = num_slots // 2
        self._feeds: dict[int, Feed] = {}
        """By priority and arrival."""
        self._shares = Shares(CREDIT_NS)
        """Of device time; its units are bytes of latents, since sizes differ."""
        self._turn: Feed | None = None
        """Whose chunk was begun,"""
        self._num_left = 0
        """and how many latents it lacks."""
        self._held: Counter[tuple[str, int]] = Counter()
        """Inlet slots of each tenant's open sessions, at each priority."""

    def add_session(self, session: int, opening: Opening) -> Feed:
        """Add a session behind those of its tenant and priority that were asked for before it."""
        self._shares.open(opening.tenant, opening.weight)
        feed = Feed(session, opening.priority, opening.asked_ns, opening.tenant, opening.first_latent)
        self._feeds[session] = feed
        self._feeds = dict(sorted(self._feeds.items(), key=lambda item: (-item[1].priority, item[0])))
        return feed

    def enqueue(self, session: int, latent: memoryview) -> None:
        """Let a session's next latent wait for its turn; an unknown session is fine."""
        feed = self._feeds.get(session)
        if feed is not None:
            feed.waiting.append(latent)

    def allow(self, session: int, num_latents: int, num_wanted: int) -> int | None:
        """Let a session's latents below this one go, and no fewer than before; an unknown session is fine.

        Args:
            session: its number.
            num_latents: the frames of those below fit the session's window.
            num_wanted: the client waits for the frames of those below, or soon will.

        Returns:
            The latent below which chunks are wanted that begin there; None if that is what it was.
        """
        feed = self._feeds.get(session)
        if feed is None:
            return None
        feed.num_allowed = max(feed.num_allowed, num_latents)
        known, feed.num_wanted = feed.num_wanted, num_wanted
        return None if known == num_wanted else num_wanted - self._chunk + 1

    def end(self, session: int) -> None:
        """No more latents come for a session; an unknown one is fine."""
        feed = self._feeds.get(session)
        if feed is not None:
            feed.ended = True

    def drop_session(self, session: int) -> None:
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

    def charge(self, chunk: DeviceTime) -> None:
        """Count the device time that a chunk has taken; its session may be closed."""
        feed = self._feeds.get(chunk.session)
        num_bytes = chunk.num_latents * feed.latent_bytes if feed is not None else 0
        self._shares.charge(chunk.tenant, chunk.device_ns, num_bytes)

    def next_latent(self, num_free: int) -> NextLatent | None:
        """Take the latent that goes next, given `num_free` free inlet slots; None when there is none."""
        first = next(iter(self._feeds.values()), None)
        if first is None or not num_free:
            return None
        stuck = all(other.num_in_inlet < self._chunk for other in self._feeds.values())
        feed = self._next_feed(stuck)
        if num_free <= self._chunk:
            kept_for_first = stuck and num_free <= self._chunk - first.num_in_inlet
            if kept_for_first or feed is None or self._held[feed.group] >= self._chunk:
                feed = first if stuck and self._is_able(first) else None
        return None if feed is None else self._take(feed)

    def _next_feed(self, stuck: bool) -> Feed | None:
        turn, self._turn = self._turn, None
        if turn is not None and self._is_able(turn):
            return turn
        able = [feed for feed in self._feeds.values() if self._is_able(feed)]
        if not able:
            return None
        feed = min(able, key=self._order)
        self._num_left = self._chunk
        if self._shares.num_tenants <= 1:
            return feed
        # Three chunks keep the device busy. More are for whose turn it is: another tenant's, which may have nothing to
        # send just now, needs the room then.
        if stuck or self._held[feed.group] < 3 * self._chunk:
            return feed
        return feed if self._order(feed)[:2] <= min(map(self._order, self._feeds.values()))[:2] else None

    def _is_able(self, feed: Feed) -> bool:
        return feed.has_latent and feed.num_in_inlet < self._per_session

    def _order(self, feed: Feed) -> tuple[int, float, bool, int, int]:
        return -feed.priority, self._shares.order(feed.tenant), feed.ahead, feed.asked_ns, feed.session

    def _hold(self, feed: Feed, num_slots: int) -> None:
        feed.num_in_inlet += num_slots
        self._shares.hold(feed.tenant, num_slots * feed.latent_bytes)
        self._held[feed.group] += num_slots
        if not self._held[feed.group]:
            del self._held[feed.group]

    def _take(self, feed: Feed) -> NextLatent:
        latent = feed.waiting.popleft()
        index = feed.num_fed
        feed.num_fed += 1
        feed.latent_bytes = len(latent) or feed.latent_bytes  # of a blank there are none
        self._hold(feed, 1)
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
