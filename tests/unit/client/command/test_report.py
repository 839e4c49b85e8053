import json
from dataclasses import replace
from fractions import Fraction

import pytest

from framehaul.causes import Cause
from framehaul_client.command.report import Meanwhile, Report, Timeline

REPORT = Report(
    out="v.mp4",
    target="host:1",
    model="tiny",
    pixel_format="yuv420p",
    width=832,
    height=480,
    fps=Fraction(24000, 1001),
    num_latents=10,
    num_frames=40,
    latent_bytes=999,
    frame_bytes=24_000_000,
    out_bytes=1_500_000,
    total_s=3.0,
    first_frame_s=0.25,
    stream_s=2.0,
    timeline=Timeline(
        connect_s=0.1,
        queue_s=0.0,
        open_s=0.1,
        wait_frames_s=1.5,
        wait_encoder_s=0.25,
        finish_s=0.5,
        other_s=0.5500000001,
    ),
    meanwhile=Meanwhile(encode_s=1.5, read_latents_s=0.1, wait_room_s=0.2, send_latents_s=0.3),
    server_s={Cause.DECODE: 6.0, Cause.NETWORK: 2.0, Cause.CLIENT_ENCODER: 9.0},
    faster="libx264 veryfast; --preset superfast is faster, with more bytes",
)


def test_images_have_no_rate() -> None:
    """Nor does the report claim one."""
    report = replace(REPORT, fps=None)
    assert json.loads(report.as_json())["fps"] is None
    assert "v.mp4: 40 frames, 832x480, 1.5 MB" in report.as_text()


def test_json_has_every_number() -> None:
    """One line that any program reads; speeds are over the time of the stream."""
    text = REPORT.as_json()
    assert "\n" not in text
    values = json.loads(text)
    assert values["fps"] == "24000/1001"
    assert values["frames_per_s"] == 20.0
    assert values["megabytes_per_s"] == 12.0
    assert values["timeline"]["other_s"] == 0.55
    assert values["meanwhile"]["encode_s"] == 1.5


def test_a_draft_is_reported_before_the_rest() -> None:
    """In a line, and to programs as another report."""
    report = replace(REPORT, draft=replace(REPORT, out="draft.mp4", model="taew2_1", total_s=1.0))
    expected = "draft.mp4: 40 frames by taew2_1, the first after 0.250 s, written after 1.00 s"
    assert report.as_text() == f"{expected}\n{REPORT.as_text()}"
    values = json.loads(report.as_json())
    assert (values["draft"]["model"], values["draft"]["frames_per_s"]) == ("taew2_1", 20.0)
    assert "draft" not in values["draft"]


def test_text_says_the_same() -> None:
    """Counts, speeds, and where the time went."""
    text = REPORT.as_text()
    assert "v.mp4: 40 frames, 832x480, 23.976 frames/s, 1.5 MB" in text
    assert "10 latents (999 bytes) by tiny at host:1, as yuv420p" in text
    assert "first frame after 0.250 s; all in 2.00 s: 20.0 frames/s, 12.0 MB/s" in text
    assert "1.50 waiting for frames" in text
    assert "encoder busy 1.50 s (50%)" in text


def test_the_time_in_a_queue_is_told_when_there_was_some() -> None:
    """Between connecting and opening, as it happened."""
    assert "3.00 s in all: 0.10 connecting, 0.10 opening, 1.50 waiting" in REPORT.as_text()
    queued = replace(REPORT, timeline=replace(REPORT.timeline, queue_s=2.5))
    assert "3.00 s in all: 0.10 connecting, 2.50 queued, 0.10 opening, 1.50 waiting" in queued.as_text()
    assert json.loads(queued.as_json())["timeline"]["queue_s"] == 2.5


@pytest.mark.parametrize(("out_bytes", "size"), [(0, "0 bytes"), (1000, "1.0 kB"), (2_500_000_000, "2.5 GB")])
def test_sizes(out_bytes: int, size: str) -> None:
    """Sizes are in units that fit."""
    assert size in replace(REPORT, out_bytes=out_bytes).as_text()


def test_the_time_that_the_client_waited_is_what_the_server_says_of_it() -> None:
    """Without what the server says of the client's encoder, which the client itself knows better."""
    assert REPORT.charged_s == {Cause.CLIENT_ENCODER: 0.75, Cause.DECODE: pytest.approx(1.275), Cause.NETWORK: 0.425}
    values = json.loads(REPORT.as_json())
    assert (values["bound_by"], values["bound_share"]) == ("decode", 0.520408)
    assert values["charged_s"] == {"client's encoder": 0.75, "decode": 1.275, "network": 0.425}
    text = "bound by the decoder, 52 %; client's encoder 31 %, network 17 %\n  the decoder works all the time"
    assert text in REPORT.as_text()


def test_a_slow_encoder_is_told_how_to_be_faster() -> None:
    slow = replace(REPORT, timeline=replace(REPORT.timeline, wait_encoder_s=9.0), server_s={})
    text = slow.as_text()
    assert text.endswith("bound by the client's encoder, 85 %; network 15 %\n  " + REPORT.faster)


def test_no_time_is_no_speed() -> None:
    """A clock that stands still divides nothing by zero, and nothing is bound by anything."""
    still = replace(REPORT, total_s=0.0, stream_s=0.0, timeline=Timeline())
    assert (still.verdict, json.loads(still.as_json())["bound_by"]) == (None, None)
    assert "bound by" not in still.as_text()
    assert (still.frames_per_s, still.megabytes_per_s) == (0.0, 0.0)
    assert "(0%)" in still.as_text()
