"""What there is to see of a server. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from framehaul_pipeline.supervision.epoch import WorkerStatistics
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.session_view import SessionView


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """A server now. Times are nanoseconds of the system's monotonic clock."""

    now_ns: int
    version: str
    device: str
    worker_state: str
    num_restarts: int
    """Workers that followed the first one."""
    max_sessions: int
    num_sessions: int
    """With their places held, detached ones included."""
    num_queued: int
    max_queued: int
    worker: WorkerStatistics
    """Rings and memory."""
    recorder: Recorder
    """Counters, and the last minute."""
    sessions: Sequence[SessionView]
    """Served and detached."""
    num_readers: int = 0
    """Processes that may read films at a time; 0: none are searched."""
    num_reading: int = 0
    """Of those, now."""
