"""Which latent goes into the inlet next: pure, run by the server.

A session's latents wait here, as views of the messages they came in, until their frames fit the session's window and
the inlet has a slot for them. Because only such latents are handed over, the worker uses every one of them in bounded
time: a client that stops reading holds no inlet slot, and no frame slot.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Feed:
    """One session's latents on their way to the inlet."""

    session: int
    order: tuple[int, int]
    """Sorts sessions: what is smaller is served first."""
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

    A session has at most `per_session` inlet slots, and the last `per_session` free ones are kept for the session that
    is first in order, so that later ones can't starve it.
    """

    def __init__(self, per_session: int) -> None:
        """Allow each session `per_session` inlet slots: two chunks, so that one can upload while one decodes."""
        self._per_session = per_session
        self._feeds: dict[int, Feed] = {}

    def open(self, session: int, *, priority: int) -> Feed:
        """Add a session behind those of the same priority; a higher `priority` is served first."""
        feed = Feed(session, order=(-priority, session))
        self._feeds[session] = feed
        self._feeds = dict(sorted(self._feeds.items(), key=lambda item: item[1].order))
        return feed

    def get(self, session: int) -> Feed | None:
        """A session's feed, None once it is closed."""
        return self._feeds.get(session)

    def close(self, session: int) -> None:
        """Forget a session and the latents that wait for it; an unknown one is fine."""
        self._feeds.pop(session, None)

    def returned(self, session: int) -> None:
        """An inlet slot of this session is free again; an unknown session is fine."""
        feed = self._feeds.get(session)
        if feed is not None:
            feed.num_in_inlet -= 1

    def next_latent(self, num_free: int) -> NextLatent | None:
        """Take the latent that goes next, given `num_free` free inlet slots; None when there is none."""
        for rank, feed in enumerate(self._feeds.values()):
            if feed.has_latent and feed.num_in_inlet < self._per_session:
                kept = self._per_session if rank else 0
                return self._take(feed) if num_free > kept else None
        return None

    def _take(self, feed: Feed) -> NextLatent:
        latent = feed.waiting.popleft()
        index = feed.num_fed
        feed.num_fed += 1
        feed.num_in_inlet += 1
        return NextLatent(feed.session, index, latent)

    def next_end(self) -> int | None:
        """Take a session whose end the worker must hear of; None when there is none."""
        for feed in self._feeds.values():
            if feed.has_end:
                feed.end_fed = True
                return feed.session
        return None
