"""What can go wrong, as one small hierarchy that knows nothing of gRPC.

The server maps each class to a status in one table (`framehaul_server.status`).
"""

from __future__ import annotations


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


class Overloaded(PipelineError):
    """No room now; the same request may succeed after `retry_after_s`."""

    def __init__(self, reason: str, *, retry_after_s: float) -> None:
        """Say the `reason` and when to try again."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Unavailable(PipelineError):
    """The work can't go on here, but can elsewhere or later: a lost worker, a draining server."""


class WorkerLost(Unavailable):
    """The worker process ended; its sessions may go on with the next one."""

    def __init__(self, *, at_work: bool) -> None:
        """Say whether it was at work for the session that hears this: what it was given may be what ended it."""
        super().__init__("the worker process ended; open the session again")
        self.at_work = at_work


class DataLoss(PipelineError):
    """Bytes differ from what their checksum or a replay says."""
