"""A server now, as JSON for its page and for `client top`; docs/observability.md tells of its fields. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from framehaul.causes import ADVICE, Cause, Verdict
from framehaul_server.core.recorder import RECENT_S
from framehaul_server.core.session_view import SessionView
from framehaul_server.observe.view import ServerView

NOW_S: Final = 3
"""What "now" is the mean of: chunks may take a second each."""
_SECOND_NS: Final = 1_000_000_000


def snapshot(view: ServerView, preview: Callable[[int], int | None] | None) -> dict[str, Any]:
    """What there is to see; `preview` says which picture a session has, None: no pictures are made."""
    recorder, worker = view.recorder, view.worker
    seconds = recorder.recent.seconds(view.now_ns)
    known_s = min(RECENT_S, (view.now_ns - recorder.started_ns) / _SECOND_NS)
    busy = [min(1.0, each.get("kernels", 0) / _SECOND_NS) for each in seconds]
    frames = [each.get("frames", 0) for each in seconds]
    return {
        "version": view.version,
        "device": view.device,
        "worker": view.worker_state,
        "restarts": view.num_restarts,
        "up_s": round((view.now_ns - recorder.started_ns) / _SECOND_NS, 1),
        "verdict": _verdict(recorder.seconds(view.now_ns)),
        "kernels_busy": _rates(busy, known_s),
        "frames_per_s": _rates(frames, known_s),
        "frames": recorder.totals.num_frames,
        "bytes": recorder.totals.num_bytes,
        "places": {"used": view.num_sessions, "all": view.max_sessions},
        "queue": {"used": view.num_queued, "all": view.max_queued},
        "slots": {"used": worker.num_slots_held, "all": worker.num_slots},
        "inlet": {"used": worker.num_inlet_slots - worker.num_inlet_free, "all": worker.num_inlet_slots},
        "memory": {"used": worker.session_memory_used_bytes, "all": worker.session_memory_bytes or None},
        "parked": worker.num_parked,
        "timeline": {
            "causes": _timeline(recorder.timeline(view.now_ns)),
            "kernels_busy": [round(each, 3) for each in busy],
            "frames": frames,
        },
        "previews": preview is not None,
        "sessions": [_session(each, preview) for each in sorted(view.sessions, key=lambda each: each.number)],
    }


def _session(view: SessionView, preview: Callable[[int], int | None] | None) -> dict[str, Any]:
    return {
        "number": view.number,
        "request_id": view.request_id,
        "tenant": view.tenant,
        "model": view.model,
        "width": view.width,
        "height": view.height,
        "pixel_format": view.pixel_format,
        "mode": "explicit" if view.explicit else "auto",
        "priority": view.priority,
        "state": view.state,
        "latents": view.num_latents,
        "fed": view.num_fed,
        "frames": view.num_published,
        "taken": view.num_taken,
        "window": {"used": view.num_published - view.num_taken, "all": view.frames_until - view.num_taken},
        "waiting_for": view.waiting_for.value,
        "verdict": _verdict(view.seconds),
        "preview": preview(view.number) if preview else None,
    }


def _verdict(seconds: Mapping[Cause, float]) -> dict[str, Any] | None:
    verdict = Verdict.of(seconds)
    if verdict is None:
        return None
    return {
        "text": str(verdict),
        "bound_by": verdict.bound_by.value,
        "share": round(verdict.share, 4),
        "shares": {cause.value: round(share, 4) for cause, share in verdict.shares.items()},
        "advice": ADVICE[verdict.bound_by],
    }


def _rates(seconds: list[Any], known_s: float) -> dict[str, float]:
    """A second's mean, now and over the last minute; or over `known_s`, when there is no more."""
    return {
        "now": round(sum(seconds[-NOW_S:]) / max(1.0, min(NOW_S, known_s)), 3),
        "minute": round(sum(seconds) / max(1.0, known_s), 3),
    }


def _timeline(seconds: list[dict[Cause, float]]) -> dict[str, list[float]]:
    """Each cause's share of each second; idle is what is missing."""
    return {
        cause.value: [round(each.get(cause, 0.0), 3) for each in seconds]
        for cause in Cause
        if cause is not Cause.IDLE and any(cause in each for each in seconds)
    }
