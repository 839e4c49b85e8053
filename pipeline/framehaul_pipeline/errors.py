"""What can go wrong, as one small hierarchy that knows nothing of gRPC.

The server maps each class to a status in one table (`framehaul_server.rpc.status`).
"""

from __future__ import annotations

from enum import Enum


class PipelineError(Exception):
    """Base of every error that the pipeline raises on purpose; its text may be shown to a client."""


class InvalidInput(PipelineError):
    """A field holds a value that is not allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        """Name the `field`, the `value` it held, and what is `allowed`."""
        super().__init__(f"{field}={value}: must be {allowed}")
        self.field, self.value, self.allowed = field, value, allowed


class NotFound(PipelineError):
    """A name or a session that this server doesn't know."""


class OutOfOrder(PipelineError):
    """A message that its session's state doesn't allow."""


class Lack(Enum):
    """What there is none of when a request is refused for now; in metrics."""

    PLACES = "places"
    """All sessions of the server are in use, and the queue is full."""
    TENANT_PLACES = "tenant_places"
    """Those of the tenant are, and its part of the queue is full."""
    TENANT_BYTES = "tenant_bytes"
    """Waiting bytes of the tenant."""
    DEVICE_MEMORY = "device_memory"
    """For a session's state and work."""
    READING = "reading"
    """The request gave way to others that wait to be read."""
    CALLS = "calls"
    """The client has as many as it may: unread ones, watchers, traces, clips that wait."""


class Overloaded(PipelineError):
    """No room now; the same request may succeed after `retry_after_s`."""

    def __init__(self, reason: str, lack: Lack, *, retry_after_s: float) -> None:
        """Say the `reason`, what there is a `lack` of, and when to try again."""
        super().__init__(reason)
        self.lack = lack
        self.retry_after_s = retry_after_s


class Unavailable(PipelineError):
    """The work can't go on here, but can elsewhere or later: a lost worker, a draining server."""


class WorkerRestarting(Unavailable):
    """A worker died and the next one isn't ready yet: it can be waited for."""


class AtWork(Enum):
    """Whether a worker was at work for a session when it died: then what that gave it may be what ended it."""

    NO = "no"
    BESIDE_OTHERS = "beside others"
    ALONE = "alone"
    """For this session and no other: nobody else's can be."""

    @classmethod
    def of(cls, session: int, at_work: frozenset[int]) -> AtWork:
        """Judge one session, given all that the worker was at work for."""
        if session not in at_work:
            return cls.NO
        return cls.ALONE if len(at_work) == 1 else cls.BESIDE_OTHERS


class WorkerLost(Unavailable):
    """The worker process ended; its sessions may go on with the next one."""

    def __init__(self, *, at_work: AtWork) -> None:
        """Say whether it was at work for the session that hears this."""
        super().__init__("the worker process ended; open the session again")
        self.at_work = at_work


class WorkersKilled(PipelineError):
    """Too many workers died at work for a session alone, without a new frame of it: the next one would too."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__(
            "three worker processes died while they decoded this session alone: its latents may be what ends them"
        )


class DataLoss(PipelineError):
    """Bytes differ from what their checksum says."""


class ReplayDiffers(DataLoss):
    """Frames that were decoded again differ from those of the first time."""
