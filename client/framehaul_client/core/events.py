"""What a session does, told to those who listen; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something that took from `start_ns` to `end_ns` of `time.monotonic_ns()`; a moment when these are equal.

    Attributes:
        name: `opened` (again for each connection), `latents` (sent), `frames` (received), `consume` (the caller worked
            on them), `acknowledged`, and of an encoder `start`, `encode` and `finish`.
        start_ns: when it began.
        end_ns: when it ended.
        first: the first latent or frame that it is about; of `acknowledged`, the one after the last.
        count: how many of them.
        request_id: of `opened`: the call's in the server's log.
    """

    name: str
    start_ns: int
    end_ns: int
    first: int = 0
    count: int = 0
    request_id: str = ""


OnEvent = Callable[[Event], None]
