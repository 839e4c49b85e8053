"""The log: one line an event, `key=value`, on stderr. Sizes, codes and ids; never latents or a client's bytes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from framehaul.causes import Verdict
from framehaul_pipeline.errors import Lack


def line(event: str, **fields: object) -> str:
    """Render an event; values with spaces, quotes or control characters are quoted as JSON strings."""
    return " ".join([event, *(f"{key}={_value(value)}" for key, value in fields.items())])


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


@dataclass(slots=True, kw_only=True)
class SessionRecord:
    """What the log says about a session when it ends."""

    request_id: str
    peer: str
    method: str
    tenant: str | None = None
    model: str | None = None
    size: str | None = None
    mode: str | None = None
    num_frames: int = 0
    num_latents: int = 0
    sent_bytes: int = 0
    cause: str = "ok"
    details: str | None = None
    lack: Lack | None = None
    """Of what, for which it was refused."""
    started_s: float = field(default_factory=time.monotonic)
    queued_from_s: float | None = None
    queued_s: float | None = None
    """In the queue for a place, from then on; None for a session that didn't wait there."""
    first_frame_s: float | None = None
    """From the session's start to the first frame handed to the transport."""
    verdict: Verdict | None = None
    """Of the whole session, once it is over."""

    def sent(self, num_bytes: int, num_frames: int) -> None:
        """Count a response that was handed to the transport."""
        if num_frames and self.first_frame_s is None:
            self.first_frame_s = time.monotonic() - self.started_s
        self.sent_bytes += num_bytes
        self.num_frames += num_frames

    def line(self) -> str:
        """The log line."""
        return line(
            "session_end",
            id=self.request_id,
            peer=self.peer,
            method=self.method,
            tenant=self.tenant,
            model=self.model,
            size=self.size,
            mode=self.mode,
            frames=self.num_frames,
            latents=self.num_latents,
            bytes=self.sent_bytes,
            seconds=time.monotonic() - self.started_s,
            queued_s=self.queued_s,
            first_frame_s=self.first_frame_s,
            bound_by=self.verdict.bound_by.value if self.verdict is not None else None,
            bound_share=self.verdict.share if self.verdict is not None else None,
            cause=self.cause,
            details=self.details,
        )
