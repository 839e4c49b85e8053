"""A session as its server's operator sees it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from framehaul.causes import Cause
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.core.packing import Outgoing

Look = Callable[[int, OpenRequest, Outgoing], bool]
"""Is shown frames of a session by its number: the response that has them. Says whether it took them; else more come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """One session now; latents and frames are counted from the clip's start."""

    number: int
    """As in the recorder's events."""
    request_id: str
    """As in the log, of its newest call."""
    tenant: str
    model: str
    width: int
    """Of a frame, in pixels."""
    height: int
    pixel_format: str
    explicit: bool
    priority: int
    state: str
    """In the words of docs/protocol.md, "States"."""
    num_latents: int
    """Those below were received,"""
    num_fed: int
    """and those below a worker has taken over."""
    num_published: int
    """Frames below this one are decoded,"""
    num_taken: int
    """those below the client took,"""
    frames_until: int
    """and those below fit its window."""
    waiting_for: Cause
    """Now."""
    seconds: Mapping[Cause, float]
    """What its time went to so far."""
