"""How many sessions there may be, and whether new ones are welcome.

Pure but for the `idle` event; runs on the event loop. Refusals are immediate: there is no hidden queue.
"""

from __future__ import annotations

import asyncio
from typing import Final

from framehaul_pipeline.errors import Overloaded, Unavailable

_RETRY_AFTER_S: Final = 1.0


class Admission:
    """Counts the places that sessions hold."""

    def __init__(self, max_sessions: int) -> None:
        """Allow `max_sessions` places."""
        self._max_sessions = max_sessions
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

    def _take(self) -> None:
        self.check_open()
        if self.num_sessions >= self._max_sessions:
            raise Overloaded(
                f"all {self._max_sessions} sessions of this server are in use", retry_after_s=_RETRY_AFTER_S
            )
        self.num_sessions += 1
        self.idle.clear()

    def _release(self) -> None:
        self.num_sessions -= 1
        if self.num_sessions == 0:
            self.idle.set()


class Place:
    """A session's place, held from `take` until `release`."""

    __slots__ = ("_admission", "_held")

    def __init__(self, admission: Admission) -> None:
        """Start without a place."""
        self._admission = admission
        self._held = False

    def take(self) -> None:
        """Take the place.

        Raises:
            Overloaded: every place is taken.
            Unavailable: the server drains.
        """
        self._admission._take()
        self._held = True

    def release(self) -> None:
        """Give the place back; without one, or twice, is fine."""
        if self._held:
            self._held = False
            self._admission._release()
