import json
from typing import Any

import pytest
from rich.console import Console

from framehaul.causes import Cause
from framehaul_client.command.top_screen import draw
from framehaul_client.errors import ProtocolError
from framehaul_server.observe.snapshot import snapshot
from tests.support.server_view import server_view, session_view


def told(*numbers: int, **changes: object) -> dict[str, Any]:
    """As it comes over the wire."""
    return dict(
        json.loads(json.dumps(snapshot(server_view(*[session_view(each) for each in numbers]), None) | changes))
    )


def lines(shown: dict[str, Any], *, width: int = 80, height: int | None = None) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(draw(shown, "gpu7:9090", width=width, height=height))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_screen_has_what_the_page_has() -> None:
    assert lines(told(1, 2)) == [
        "framehaul 1.2.3 on cuda:0 NVIDIA H200, worker ready, up 1 min          gpu7:9090",
        "Idle, 83 %",
        "  nobody has asked for frames",
        "█" * 80,
        "- idle 83 %  D decode 8 %  L waiting for latents 8 %",
        "",
        "kernels busy                           ▃▃▃▃▃  40 % now, 7 % in the last minute",
        "frames/s                               █████  24.0 now, 4.0 in the last minute",
        "went to                                LLLLL",
        "sessions 2/64  queue 1/8  slots 2/8  inlet 10/40  memory 2.5 GB/8.0 GB  1 parked",
        "",
        "# tenant               model        size    frames window waits for bound by",
        "1 film                 tiny         832x480     20   8/16 decode    decode 75 %",
        "2 film                 tiny         832x480     20   8/16 decode    decode 75 %",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("height", [5, 24, 60])
@pytest.mark.parametrize("num_sessions", [0, 1, 12])
def test_it_fits_its_terminal(width: int, height: int, num_sessions: int) -> None:
    """Sessions that don't are counted."""
    shown = lines(told(*range(num_sessions)), width=width, height=height)
    assert max(map(len, shown)) <= width
    if width < 80 or height < 24:
        return
    assert len(shown) <= height
    rows = sum(" film " in line for line in shown)
    assert rows == num_sessions or shown[-1] == f"and {num_sessions - rows} more"
    assert num_sessions or shown[-1] == "no session is open"


def test_long_names_give_way_to_what_a_session_is_bound_by() -> None:
    """In 80 columns."""
    shown = told(1)
    row = {"number": 123, "tenant": "t" * 64, "model": "wan2.1-vae-upscale2x", "width": 1920, "height": 1080}
    verdict = shown["sessions"][0]["verdict"] | {"bound_by": "client's encoder", "share": 1.0}
    window = {"used": 1200, "all": 1200}
    shown["sessions"][0] |= row | {"taken": 100_000, "window": window, "state": "detached", "verdict": verdict}
    assert (
        lines(shown)[-1] == "123 ttttttttttttt\u2026 wan2.1-v\u2026 1920x1080 100000 1200/1200 detached  encoder 100 %"
    )


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_its_letter(cause: Cause) -> None:
    verdict = {"text": "t", "advice": "a", "bound_by": cause.value, "share": 1.0, "shares": {cause.value: 1.0}}
    shown = told(1, verdict=verdict)
    shown["timeline"]["causes"] = {cause.value: [1.0] * 60}
    letter, name = lines(shown)[4][0], lines(shown)[4][2:]
    assert (letter == "?", name) == (False, f"{cause.value} 100 %")
    assert lines(shown)[8].split() == ["went", "to", letter * 30]


def test_names_and_texts_cannot_drive_the_terminal() -> None:
    """Nor be taken for rich's own markup; causes of a later server are shown as they come."""
    shown = told(1, device="[red]\x1b[2J")
    shown["sessions"][0] |= {"tenant": "[b]\x1b]0;x\x07", "model": "\u202etxt", "waiting_for": "moon\n"}
    text = "\n".join(lines(shown, width=200))
    assert "\x1b" not in text
    assert r"[red]\x1b[2J" in text
    assert r"[b]\x1b]0;x\x07" in text
    assert r"\u202etxt" in text
    assert r"moon\n" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"sessions": None},
        {"sessions": [{}]},
        {"verdict": {}},
        {"timeline": {"causes": {"decode": ["x"] * 60}, "kernels_busy": [0], "frames": [0]}},
        {"up_s": float("inf")},
        {"places": {"used": "1", "all": 2}},
        {"kernels_busy": []},
    ],
)
def test_what_is_no_snapshot_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="gpu7:9090: what came is no snapshot that this client understands"):
        lines(told(1) | changes)


def test_before_anything_happened_there_is_nothing_to_tell() -> None:
    assert lines(told(verdict=None))[1] == "Nothing to tell yet"


@pytest.mark.parametrize(("up_s", "text"), [(5.9, "up 5 s"), (61, "up 1 min"), (7300, "up 2 h"), (200_000, "up 2 d")])
def test_long_times_are_told_in_large_units(up_s: float, text: str) -> None:
    assert text in lines(told(up_s=up_s))[0]
