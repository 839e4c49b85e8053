"""What every session of a server is held to, and the most that one may hold, known when it opens. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from framehaul_server.core.open_request import OpenRequest, OpenRules
from framehaul_server.core.packing import frames_per_message
from framehaul_server.core.tenants import Tenant
from framehaul_server.core.window import WindowLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """What every session of a server is held to."""

    opening: OpenRules
    window_bytes: int
    latent_bytes: int
    journal_bytes: int
    max_request_bytes: int
    chunk_latents: int
    stall_timeout_s: float
    resume_window_s: float
    epoch: int = 0
    """Of the server; its sessions' ids have it."""


def most_read(tenant: Tenant, max_request_bytes: int) -> int | None:
    """Requests of a tenant's that its limits allow to be read at a time; None: no limit."""
    most = [] if tenant.max_sessions is None else [tenant.max_sessions]
    if tenant.max_waiting_bytes is not None:
        most.append(tenant.max_waiting_bytes // max_request_bytes)
    return min(most, default=None)


def most_bytes(request: OpenRequest, limits: WindowLimits, budget: int, rules: SessionRules) -> int:
    """Bytes of latents and frames that a session with this window and `budget` of latents may hold at a time.

    Latents that wait for the worker count by themselves, and those that it took over and the journal keeps by the
    journal's limit. A response that was sent and may be asked for again has its place in the window, like one that
    waits.
    """
    return _most_frames(request, limits) * request.frame_bytes + _most_latent_bytes(request, budget, rules)


def _most_frames(request: OpenRequest, limits: WindowLimits) -> int:
    most = limits.max_frames
    if request.resumable:
        # A message that is acknowledged in part is kept whole.
        most += frames_per_message(request.frame_bytes, request.max_message_bytes, waits=True) - 1
    if request.opening.num_latents is None:
        return most
    return min(most, request.spec.num_frames(request.opening.num_latents) - request.start_frame)


def _most_latent_bytes(request: OpenRequest, budget: int, rules: SessionRules) -> int:
    waiting_bytes = budget * request.latent_bytes
    if not request.explicit:
        # Without grants, a message is taken whole while there is room for one latent.
        waiting_bytes += rules.max_request_bytes
    most = waiting_bytes + rules.journal_bytes
    if request.opening.num_latents is None:
        return most
    return min(most, (request.opening.num_latents - request.first_latent) * request.latent_bytes)
