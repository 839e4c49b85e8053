import json
from dataclasses import replace

import pytest

from framehaul_client.command import probe_report
from framehaul_client.command.probe_report import Run, Summary
from framehaul_client.errors import Refused, ServerUnavailable

GOOD = Run(
    target="gpu7:1",
    started_at=1_000_000_000.5,
    model="tiny",
    num_frames=84,
    frame_bytes=999,
    connect_s=0.01,
    queue_s=0.0,
    open_s=0.002,
    first_frame_s=0.0123456789,
    stream_s=2.0,
    total_s=2.02,
)
FAILED = Run(
    target="gpu7:1", started_at=0.0, error=ServerUnavailable("gpu7:1: no server answered"), stage="connect", total_s=5.0
)


def test_json_has_every_number() -> None:
    """One line that any program reads; the speed is over the time of the stream."""
    text = GOOD.as_json()
    assert "\n" not in text
    values = json.loads(text)
    assert values == {
        "target": "gpu7:1",
        "started_at": "2001-09-09T01:46:40.500Z",
        "outcome": "ok",
        "error": None,
        "stage": None,
        "model": "tiny",
        "num_frames": 84,
        "frame_bytes": 999,
        "connect_s": 0.01,
        "queue_s": 0.0,
        "open_s": 0.002,
        "first_frame_s": 0.012346,
        "stream_s": 2.0,
        "total_s": 2.02,
        "frames_per_s": 42.0,
    }


def test_json_of_a_failure() -> None:
    """The class, the reason without the server's name, and what the run came to."""
    values = json.loads(FAILED.as_json())
    assert (values["outcome"], values["error"]) == ("ServerUnavailable", "no server answered")
    assert (values["stage"], values["connect_s"], values["first_frame_s"]) == ("connect", None, None)
    assert (values["total_s"], values["num_frames"], values["frames_per_s"]) == (5.0, 0, 0.0)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (
            GOOD,
            "2001-09-09T01:46:40Z gpu7:1: first frame after 0.012 s; 84 frames in 2.00 s, 42.0 frames/s; "
            "2.02 s in all, 0.01 connecting",
        ),
        (
            replace(GOOD, queue_s=3.0, total_s=5.02),
            "2001-09-09T01:46:40Z gpu7:1: first frame after 0.012 s; 84 frames in 2.00 s, 42.0 frames/s; "
            "5.02 s in all, 0.01 connecting, 3.00 queued",
        ),
        (
            FAILED,
            "1970-01-01T00:00:00Z gpu7:1: failed after 5.00 s (connect): ServerUnavailable: no server answered",
        ),
    ],
    ids=["good", "queued", "failed"],
)
def test_text_is_a_line(run: Run, text: str) -> None:
    """When, where, and how it went."""
    assert run.as_text() == text


def test_a_summary_counts_failures_and_has_percentiles_of_the_rest() -> None:
    """Times are worst when long, speeds when low; failures don't blur them."""
    summary = Summary("gpu7:1")
    for number in range(101):
        summary.add(replace(GOOD, first_frame_s=number / 100, stream_s=84 / (100 + number), total_s=3.0, queue_s=0.5))
    for error in (Refused("full"), Refused("full"), ServerUnavailable("gone")):
        summary.add(replace(FAILED, error=error))
    assert summary.num_runs == 104
    assert summary.as_text().splitlines() == [
        "gpu7:1: 104 runs, 3 failed (2 Refused, 1 ServerUnavailable)",
        "  first frame  p50 0.500     p95 0.950     max 1.000 s",
        "  in all       p50 3.000     p95 3.000     max 3.000 s",
        "  connecting   p50 0.010     p95 0.010     max 0.010 s",
        "  queued       p50 0.500     p95 0.500     max 0.500 s",
        "  frames/s     p50 150.0     p5  105.0     min 100.0",
    ]


def test_without_a_good_run_there_are_no_percentiles() -> None:
    """One line is all."""
    summary = Summary("gpu7:1")
    summary.add(FAILED)
    assert summary.as_text() == "gpu7:1: 1 run, 1 failed (1 ServerUnavailable)"


def test_a_summary_of_any_number_of_runs_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe may run for years."""
    monkeypatch.setattr(probe_report, "_MOST_KEPT", 2)
    summary = Summary("gpu7:1")
    for first_frame_s in (9.0, 1.0, 1.0):
        summary.add(replace(GOOD, first_frame_s=first_frame_s))
    first, second, *_ = summary.as_text().splitlines()
    assert first == "gpu7:1: 3 runs, 0 failed; below, the last 2 that ended well"
    assert second == "  first frame  p50 1.000     p95 1.000     max 1.000 s"
