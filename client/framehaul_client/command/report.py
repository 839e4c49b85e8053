"""What a run did and where its time went, for people and for programs; pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from framehaul.causes import ADVICE, Cause, Verdict
from framehaul_client.command.exits import AGAIN, exit_code
from framehaul_client.errors import FramehaulError


@dataclass(slots=True, kw_only=True)
class Timeline:
    """The main task's time from start to end: these follow each other and add up to the total.

    Attributes:
        connect_s: until the server answered.
        queue_s: in the server's queue, before the session was opened.
        open_s: until the server had accepted the session, without the queue; includes the first latent.
        wait_frames_s: waiting for frames: the server, the network, or latents that weren't ready.
        wait_encoder_s: waiting for the encoder, while its queue was full.
        finish_s: after the last frame: the rest of the encoding, and the file.
        other_s: what remains.
    """

    connect_s: float = 0.0
    queue_s: float = 0.0
    open_s: float = 0.0
    wait_frames_s: float = 0.0
    wait_encoder_s: float = 0.0
    finish_s: float = 0.0
    other_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Meanwhile:
    """What ran beside the main task, and for how long.

    Attributes:
        encode_s: the encoder worked.
        read_latents_s: latents were read.
        wait_room_s: latents waited for the server to take more.
        send_latents_s: latents waited for the connection.
    """

    encode_s: float
    read_latents_s: float
    wait_room_s: float
    send_latents_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One `client stream` that ended well; sizes of frames in pixels."""

    out: str
    target: str
    model: str
    pixel_format: str
    width: int
    height: int
    fps: Fraction | None
    """None for images."""
    num_latents: int
    num_frames: int
    latent_bytes: int
    frame_bytes: int
    """Received, without headers."""
    out_bytes: int
    total_s: float
    first_frame_s: float
    """From asking for the session to its first frame, without the server's queue."""
    stream_s: float
    """Likewise, to its last frame."""
    timeline: Timeline
    meanwhile: Meanwhile
    server_s: dict[Cause, float]
    """What the session's time at the server went to, as that says."""
    faster: str
    """What would make the encoder faster."""
    draft: Report | None = None
    """Of the draft that was made beside."""

    @property
    def frames_per_s(self) -> float:
        """Frames a second, from asking for the session to its last frame."""
        return self.num_frames / self.stream_s if self.stream_s else 0.0

    @property
    def megabytes_per_s(self) -> float:
        """Megabytes of frames a second, over the same time."""
        return self.frame_bytes / 1e6 / self.stream_s if self.stream_s else 0.0

    @property
    def charged_s(self) -> dict[Cause, float]:
        """What the time went to: the client's own, and while it waited for frames, what the server says of it."""
        line = self.timeline
        charged = {Cause.CLIENT_ENCODER: line.wait_encoder_s + line.finish_s, Cause.SHARED: line.queue_s}
        waited_s = line.connect_s + line.open_s + line.wait_frames_s
        there = {cause: each for cause, each in self.server_s.items() if cause is not Cause.CLIENT_ENCODER}
        total = sum(there.values())
        for cause, each in (there if total else {Cause.NETWORK: 1.0}).items():
            charged[cause] = charged.get(cause, 0.0) + waited_s * each / (total or 1.0)
        return {cause: each for cause, each in charged.items() if each}

    @property
    def verdict(self) -> Verdict | None:
        """What most of the time went to; None: it took none."""
        return Verdict.of(self.charged_s)

    def as_json(self) -> str:
        """Make one line of JSON; times in seconds, sizes in bytes."""
        return json.dumps(_rounded(self._values()))

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = asdict(self)
        del values["server_s"], values["faster"], values["draft"]
        values["charged_s"] = {cause.value: each for cause, each in self.charged_s.items()}
        values["bound_by"] = None if self.verdict is None else self.verdict.bound_by.value
        values["bound_share"] = None if self.verdict is None else self.verdict.share
        values["fps"] = None if self.fps is None else str(self.fps)
        values["frames_per_s"] = self.frames_per_s
        values["megabytes_per_s"] = self.megabytes_per_s
        if self.draft is not None:
            values["draft"] = self.draft._values()
        return values

    def as_text(self) -> str:
        """Make a few lines for people."""
        line, beside = self.timeline, self.meanwhile
        queued = f"{line.queue_s:.2f} queued, " if line.queue_s else ""
        rate = "" if self.fps is None else f"{float(self.fps):.6g} frames/s, "
        busy = beside.encode_s / self.total_s if self.total_s else 0.0
        return "\n".join(
            (
                *self._draft_lines(),
                f"{self.out}: {self.num_frames} frames, {self.width}x{self.height}, {rate}{_size(self.out_bytes)}",
                f"  from {self.num_latents} latents ({_size(self.latent_bytes)}) by {self.model} at {self.target}, "
                f"as {self.pixel_format}",
                f"  first frame after {self.first_frame_s:.3f} s; all in {self.stream_s:.2f} s: "
                f"{self.frames_per_s:.1f} frames/s, {self.megabytes_per_s:.1f} MB/s",
                f"  {self.total_s:.2f} s in all: {line.connect_s:.2f} connecting, {queued}"
                f"{line.open_s:.2f} opening, "
                f"{line.wait_frames_s:.2f} waiting for frames, {line.wait_encoder_s:.2f} waiting for the encoder, "
                f"{line.finish_s:.2f} finishing, {line.other_s:.2f} other",
                f"  meanwhile: encoder busy {beside.encode_s:.2f} s ({busy:.0%}); "
                f"latents read {beside.read_latents_s:.2f} s, held back by the server {beside.wait_room_s:.2f} s, "
                f"sending {beside.send_latents_s:.2f} s",
                *self._verdict_lines(),
            )
        )

    def _draft_lines(self) -> list[str]:
        draft = self.draft
        if draft is None:
            return []
        return [
            f"{draft.out}: {draft.num_frames} frames by {draft.model}, the first after {draft.first_frame_s:.3f} s, "
            f"written after {draft.total_s:.2f} s"
        ]

    def _verdict_lines(self) -> list[str]:
        verdict = self.verdict
        if verdict is None:
            return []
        own = self.faster if verdict.bound_by is Cause.CLIENT_ENCODER else ""
        return [f"  {verdict.text()}", f"  {own or ADVICE[verdict.bound_by]}"]


def error_json(error: FramehaulError) -> str:
    """Make one line of JSON of how a command failed."""
    code = exit_code(error)
    return json.dumps({"error": str(error), "reason": error.reason, "exit_code": code, "retry": code in AGAIN})


def _size(num_bytes: int) -> str:
    if num_bytes < 1000:
        return f"{num_bytes} bytes"
    for unit, unit_bytes in (("kB", 1e3), ("MB", 1e6)):
        if num_bytes < 1000 * unit_bytes:
            return f"{num_bytes / unit_bytes:.1f} {unit}"
    return f"{num_bytes / 1e9:.1f} GB"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value
