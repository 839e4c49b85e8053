import json

import pytest

from framehaul.causes import Cause
from framehaul_server.observe.snapshot import snapshot
from tests.support.server_view import server_view, session_view


def test_a_snapshot_has_what_the_view_has() -> None:
    told = snapshot(server_view(session_view(2, state="detached"), session_view(1)), {1: 28}.get)
    sessions = told.pop("sessions")
    timeline = told.pop("timeline")
    assert told == {
        "version": "1.2.3",
        "device": "cuda:0 NVIDIA H200",
        "worker": "ready",
        "restarts": 0,
        "up_s": 100.0,
        "verdict": {
            "text": "idle, 83 %",
            "bound_by": "idle",
            "share": 0.8333,
            "shares": {"idle": 0.8333, "decode": 0.0833, "waiting for latents": 0.0833},
            "advice": "nobody has asked for frames",
        },
        "kernels_busy": {"now": 0.4, "minute": round(4 / 60, 3)},
        "frames_per_s": {"now": 24.0, "minute": 4.0},
        "frames": 240,
        "bytes": 10_000,
        "places": {"used": 2, "all": 64},
        "queue": {"used": 1, "all": 8},
        "slots": {"used": 2, "all": 8},
        "inlet": {"used": 10, "all": 40},
        "memory": {"used": 2_500_000_000, "all": 8_000_000_000},
        "parked": 1,
        "previews": True,
    }
    assert {name: set(values) for name, values in timeline["causes"].items()} == {
        "decode": {0.0, 0.5},
        "waiting for latents": {0.0, 0.5},
    }
    assert timeline["causes"]["decode"][-11:] == [0.0, *[0.5] * 10]
    assert timeline["kernels_busy"] == [*[0.0] * 50, *[0.4] * 10]
    assert timeline["frames"] == [*[0] * 50, *[24] * 10]
    assert [each["number"] for each in sessions] == [1, 2], "in the order in which they came"
    assert sessions[0] == {
        "number": 1,
        "request_id": "id1",
        "tenant": "film",
        "model": "tiny",
        "width": 832,
        "height": 480,
        "pixel_format": "yuv420p",
        "mode": "explicit",
        "priority": 0,
        "state": "served",
        "latents": 9,
        "fed": 7,
        "frames": 28,
        "taken": 20,
        "window": {"used": 8, "all": 16},
        "waiting_for": "decode",
        "verdict": {
            "text": "bound by the decoder, 75 %",
            "bound_by": "decode",
            "share": 0.75,
            "shares": {"decode": 0.75, "copy": 0.25},
            "advice": "the decoder works all the time: a faster device or decoder, or smaller frames",
        },
        "preview": 28,
    }
    assert (sessions[1]["state"], sessions[1]["preview"]) == ("detached", None)


@pytest.mark.parametrize(("up_s", "frames_per_s"), [(1, 240.0), (20, 12.0)])
def test_a_young_servers_minute_is_its_age(up_s: int, frames_per_s: float) -> None:
    assert snapshot(server_view(up_s=up_s), None)["frames_per_s"]["minute"] == frames_per_s


def test_without_previews_and_sessions_there_is_nothing_to_show() -> None:
    told = snapshot(server_view(session_view(seconds={}, explicit=False)), None)
    assert not told["previews"]
    assert [told["sessions"][0][name] for name in ("preview", "verdict", "mode")] == [None, None, "auto"]


def test_a_snapshot_is_small() -> None:
    """However long the minute, and with 64 sessions that wait for everything there is."""
    everything = dict.fromkeys(Cause, 1.2345678)
    sessions = [session_view(number, seconds=everything, num_latents=10**6) for number in range(64)]
    assert len(json.dumps(snapshot(server_view(*sessions), None))) < 80_000
