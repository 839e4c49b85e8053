"""What a session counted and where its time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from framehaul.causes import Cause


@dataclass(slots=True, kw_only=True)
class SessionStatistics:
    """Counters of one session; the times of different tasks overlap.

    Attributes:
        num_latents: latents sent, each counted once.
        latent_bytes: bytes of latents sent, repeated ones included.
        num_frames: frames received and checked.
        frame_bytes: their size.
        queued_s: time in the queues of full servers.
        open_s: from the first message to the server's answer, without the queue.
        first_frame_s: from the first message to the first frame, without the queue; None before it came.
        last_frame_s: likewise, to the last frame so far; None before the first.
        wait_frames_s: the consumer waited for frames.
        consume_s: the consumer worked on frames.
        produce_s: the latents' iterator worked.
        wait_room_s: latents waited for the server to take more.
        send_s: latents waited for the connection.
        num_reconnects: how often a lost connection was replaced.
        server_s: what the session's time at the server went to, as that says at the end.
    """

    num_latents: int = 0
    latent_bytes: int = 0
    num_frames: int = 0
    frame_bytes: int = 0
    queued_s: float = 0.0
    open_s: float = 0.0
    first_frame_s: float | None = None
    last_frame_s: float | None = None
    wait_frames_s: float = 0.0
    consume_s: float = 0.0
    produce_s: float = 0.0
    wait_room_s: float = 0.0
    send_s: float = 0.0
    num_reconnects: int = 0
    server_s: dict[Cause, float] = field(default_factory=dict)

    @classmethod
    def of_parts(cls, parts: Sequence[SessionStatistics]) -> SessionStatistics:
        """Add up sessions that ran side by side, each for a part of a clip, in order."""
        total = cls()
        for part in parts:
            for each in fields(cls):
                mine, its = getattr(total, each.name), getattr(part, each.name)
                if each.name == "server_s":
                    for cause, seconds in its.items():
                        mine[cause] = mine.get(cause, 0.0) + seconds
                elif each.name not in ("first_frame_s", "last_frame_s"):
                    setattr(total, each.name, mine + its)
        total.first_frame_s = parts[0].first_frame_s
        total.last_frame_s = max(part.last_frame_s or 0.0 for part in parts)
        return total
