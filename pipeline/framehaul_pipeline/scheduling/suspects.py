"""Sessions that an earlier worker died at work for, and that may be the reason: they are at work alone.

A session is ended for workers' deaths only if they were at work for nobody else: then nobody else's latents can be the
reason. So that the next deaths tell, a suspect's work begins when the notes in the ring
(`held_slots`) name no other session, and no other session's begins while they name a suspect. Pure but for the ring's
memory; the worker calls it under its lock.
"""

from __future__ import annotations

from framehaul_pipeline.rings.ring import Ring


class Suspects:
    """A worker's suspects, each until its first new frame is published."""

    def __init__(self, ring: Ring) -> None:
        """Start without any."""
        self._ring = ring
        self._alone_until: dict[int, int] = {}

    def open(self, session: int, alone_until: int | None) -> None:
        """Suspect a new session until this frame is published; None: it is none."""
        if alone_until is not None:
            self._alone_until[session] = alone_until

    def published(self, session: int, next_frame: int) -> None:
        """Clear the session if that is so: its frames below `next_frame` are published."""
        if next_frame > self._alone_until.get(session, next_frame):
            self.close(session)

    def close(self, session: int) -> None:
        """Forget a session; twice is fine."""
        self._alone_until.pop(session, None)

    def may_begin(self, session: int) -> bool:
        """Whether the worker may turn to this session now; beside its own work it always may."""
        if not self._alone_until:
            return True
        others = self._ring.noted() - {session}
        return not others if session in self._alone_until else others.isdisjoint(self._alone_until)
