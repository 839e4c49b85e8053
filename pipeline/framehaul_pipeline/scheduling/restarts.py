"""How often something may be restarted. Pure."""

from __future__ import annotations

from collections import deque


class RestartBudget:
    """At most `max_restarts` restarts in any `window_s` seconds."""

    def __init__(self, max_restarts: int, window_s: float) -> None:
        """Start with nothing spent."""
        self._max_restarts = max_restarts
        self._window_s = window_s
        self._deaths: deque[float] = deque()

    @property
    def num_deaths(self) -> int:
        """Deaths counted within the window of the last one."""
        return len(self._deaths)

    def spend(self, now_s: float) -> bool:
        """Count a death at `now_s`, which never falls; whether a restart is allowed."""
        self._deaths.append(now_s)
        while self._deaths[0] < now_s - self._window_s:
            self._deaths.popleft()
        return len(self._deaths) <= self._max_restarts
