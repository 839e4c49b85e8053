"""What every session of a server is held to. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from framehaul_server.core.open_request import OpenRules


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
