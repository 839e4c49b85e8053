"""`client info` and `client models`: what a server offers, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from framehaul.formats import PixelFormat
from framehaul_client.access import Access
from framehaul_client.client import FrameClient
from framehaul_client.command.model_table import model_lines
from framehaul_client.core.info import ServerInfo


async def fetch_info(target: str, connect_timeout_s: float, access: Access) -> ServerInfo:
    """Ask the server.

    Raises:
        FramehaulError: the token may not go there, or the server can't be reached or doesn't answer.

    Cancellation: closes the connection.
    """
    async with FrameClient(target, connect_timeout_s=connect_timeout_s, access=access) as client:
        return await client.info()


def info_json(info: ServerInfo) -> str:
    """Make one line of JSON."""
    return json.dumps(asdict(info))


def info_text(target: str, info: ServerInfo) -> str:
    """Make a few lines for people."""
    queued = f"{info.num_queued} queued, " if info.num_queued else ""
    lines = [
        f"{target}: framehaul {info.version} on {info.device}, "
        f"{info.num_sessions} of {info.max_sessions} sessions, "
        f"{queued}{info.num_slots_in_use} of {info.num_slots} slots in use"
    ]
    lines += [f"  {line}" for line in model_lines(info.models)]
    lines.append(
        f"  frames as {', '.join(info.pixel_formats)}, up to {info.max_pixels} pixels each "
        f"({PixelFormat.GBRPF16LE}: half of that)"
    )
    lines.append(f"  latents as {', '.join(info.dtypes)}, up to {info.chunk_latents} decoded together")
    if info.synthetic:
        lines.append("  synthetic latents are allowed")
    return "\n".join(lines)
