"""A server as operators see it, made by hand."""

from framehaul.causes import Cause
from framehaul_pipeline.link.messages import DeviceTime
from framehaul_pipeline.supervision.epoch import WorkerStatistics
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.session_view import SessionView
from framehaul_server.observe.view import ServerView

SECOND_NS = 1_000_000_000


def session_view(number: int = 1, **changes: object) -> SessionView:
    """A session that is bound by its decoder, with some fields changed."""
    fields: dict[str, object] = {
        "number": number,
        "request_id": f"id{number}",
        "tenant": "film",
        "model": "tiny",
        "width": 832,
        "height": 480,
        "pixel_format": "yuv420p",
        "explicit": True,
        "priority": 0,
        "state": "served",
        "num_latents": 9,
        "num_fed": 7,
        "num_published": 28,
        "num_taken": 20,
        "frames_until": 36,
        "waiting_for": Cause.DECODE,
        "seconds": {Cause.DECODE: 3.0, Cause.COPY: 1.0},
    }
    return SessionView(**{**fields, **changes})  # type: ignore[arg-type]


def server_view(*sessions: SessionView, up_s: int = 100, **changes: object) -> ServerView:
    """A server that has decoded half of each of its last ten seconds and sent 24 frames in each of them."""
    now_ns = 1000 * SECOND_NS
    recorder = Recorder(now_ns - up_s * SECOND_NS)
    recorder.begin(now_ns - 10 * SECOND_NS)
    for second in range(10):
        start_ns = now_ns - (second + 1) * SECOND_NS
        middle_ns, end_ns = start_ns + SECOND_NS // 2, start_ns + SECOND_NS - 1
        spent = DeviceTime(session=1, tenant="", num_latents=1, device_ns=SECOND_NS // 2, kernels_ns=SECOND_NS * 2 // 5)
        recorder.decoded(spent, middle_ns)
        recorder.charge(1, Cause.LATENTS, middle_ns, start_ns + SECOND_NS)
        recorder.sent(1, 24 * second, 24, num_bytes=1000, again=False, start_ns=end_ns, end_ns=end_ns)
    fields: dict[str, object] = {
        "now_ns": now_ns,
        "version": "1.2.3",
        "device": "cuda:0 NVIDIA H200",
        "worker_state": "ready",
        "num_restarts": 0,
        "max_sessions": 64,
        "num_sessions": len(sessions),
        "num_queued": 1,
        "max_queued": 8,
        "worker": WorkerStatistics(
            num_slots=8,
            num_slots_held=2,
            num_inlet_slots=40,
            num_inlet_free=30,
            num_sessions=len(sessions),
            session_memory_bytes=8_000_000_000,
            session_memory_used_bytes=2_500_000_000,
            num_parked=1,
        ),
        "recorder": recorder,
        "sessions": sessions,
    }
    return ServerView(**{**fields, **changes})  # type: ignore[arg-type]
