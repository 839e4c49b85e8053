"""Whether, when and for how long to retry after a session's call failed; pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from framehaul_client.errors import FramehaulError, GaveUp, Refused, ServerUnavailable, SessionDamaged

_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 2.0


class Retry:
    """Counts the failures since the last progress, and spaces out the attempts."""

    def __init__(self, retry_for_s: float, *, jitter: Callable[[], float] = random.random) -> None:
        """Give up once nothing has come for `retry_for_s`; `jitter` gives 0..1."""
        self._retry_for_s = retry_for_s
        self._jitter = jitter
        self._num_failures = 0
        self._failed_s = 0.0  # when the first of them was

    def progressed(self) -> None:
        """Something came, so the next failure counts as the first."""
        self._num_failures = 0

    def delay_s(self, error: FramehaulError, now_s: float, *, opened: bool) -> float:
        """How long to wait after `error` before the next attempt.

        Up to half of the time is random, so that clients that were cut off together don't come back together.

        Args:
            error: what the last attempt ended with.
            now_s: on any clock.
            opened: there is a session to resume. If the first one is still to be opened, a server without room is not
                asked again.

        Raises:
            FramehaulError: there should be no further attempt; `GaveUp` if a lost session has waited too long.
        """
        refused_for_now = isinstance(error, Refused) and error.retry_after_s is not None
        worth_it = isinstance(error, ServerUnavailable) or (
            opened and (refused_for_now or isinstance(error, SessionDamaged))
        )
        if not worth_it or self._retry_for_s == 0:
            raise error
        if self._num_failures == 0:
            self._failed_s = now_s
        left_s = self._failed_s + self._retry_for_s - now_s
        if left_s <= 0:
            if not opened:
                raise error
            gave_up = GaveUp(f"{error} (gave up after {self._retry_for_s:g} s)")
            gave_up.reason = error.reason
            raise gave_up from error
        delay_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0**self._num_failures)
        self._num_failures += 1
        if isinstance(error, Refused) and error.retry_after_s is not None:
            delay_s = max(delay_s, error.retry_after_s)
        return min(left_s, delay_s * (1 - self._jitter() / 2))
