from fractions import Fraction
from typing import Any

import pytest

from framehaul.formats import PixelFormat
from framehaul.v1 import frames_pb2
from framehaul.v1 import highlights_pb2 as pb
from framehaul_client.core.highlights import (
    Excerpt,
    Query,
    clock,
    numbered,
    parse_shape,
    read_excerpt_frames,
    read_progress,
    read_scores,
)
from framehaul_client.errors import ProtocolError

QUERY = Query(images=[b"jpeg"])
EXCERPT = pb.Excerpt(start=1, end=2, score=3)


def frames(**changes: Any) -> pb.ExcerptFrames:
    fields = {
        "excerpt": EXCERPT,
        "num_frames": 2,
        "height": 16,
        "width": 32,
        "pixel_format": frames_pb2.PIXEL_FORMAT_YUV420P,
        "rate_numerator": 30,
        "rate_denominator": 1,
    }
    return pb.ExcerptFrames(**{**fields, **changes})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"images": []}, "nothing to look for"),
        ({"images": [], "text": "  "}, "nothing to look for"),
        ({"images": [], "saliency": True, "frames": True}, "nothing to look for"),
        ({"seconds": 0.0}, "seconds=0: must be 0.1..600"),
        ({"excerpts": 21}, "excerpts=21: must be 1..20"),
        ({"samples_per_second": 11.0}, "samples_per_second=11: must be 0.1..10"),
        ({"cuts": "some"}, "cuts=some: must be allow, avoid, never"),
    ],
)
def test_a_query_that_no_server_takes_is_refused(fields: dict[str, Any], words: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match=words):
        Query(**{"images": [b"jpeg"], **fields})


def test_a_query_is_sent_in_full() -> None:
    query = Query(images=[b"a", b"b"], text="can", seconds=3, excerpts=2, cuts="never", frames=True, crop=(9, 16))
    sent = query.message(path="a.mp4", upload_bytes=0, max_message_bytes=9, window_frames=8)
    assert sent == pb.HighlightOpen(
        images=[b"a", b"b"],
        text="can",
        seconds=3,
        excerpts=2,
        samples_per_second=2,
        cuts=pb.CUTS_NEVER,
        want=pb.WANT_FRAMES,
        path="a.mp4",
        pixel_format=frames_pb2.PIXEL_FORMAT_YUV420P,
        max_message_bytes=9,
        crop_width=9,
        crop_height=16,
        window_frames=8,
    )
    whole_film = Query(saliency=True).message(path="a", upload_bytes=0, max_message_bytes=9, window_frames=8)
    assert (whole_film.saliency, whole_film.want) == (True, pb.WANT_SCORES)
    assert QUERY.message(path="", upload_bytes=7, max_message_bytes=9, window_frames=8).want == pb.WANT_SCORES


@pytest.mark.parametrize("text", ["9", "9x16", "a:b", "0:1", "1:101", "²:1"])
def test_a_shape_is_two_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_shape(text)
    assert parse_shape("9:16") == (9, 16)


def test_progress_is_read() -> None:
    """Without an excerpt, or a length, as long as there is none."""
    assert read_progress(pb.HighlightProgress(uploaded_bytes=5)).best is None
    found = read_progress(pb.HighlightProgress(scanned_seconds=1, total_seconds=8, samples=2, best=EXCERPT))
    assert (found.total_s, found.best) == (8.0, Excerpt(1.0, 2.0, 3.0, weak=False))
    with pytest.raises(ProtocolError, match="total_seconds"):
        read_progress(pb.HighlightProgress(total_seconds=float("nan")))


@pytest.mark.parametrize(
    "message",
    [
        pb.Scores(times=[1, 2], scores=[1], excerpts=[EXCERPT]),
        pb.Scores(),
        pb.Scores(excerpts=[EXCERPT, EXCERPT]),
        pb.Scores(times=[1], scores=[float("nan")], excerpts=[EXCERPT]),
        pb.Scores(excerpts=[pb.Excerpt(start=2, end=1)]),
        pb.Scores(excerpts=[pb.Excerpt(start=1, end=2, score=float("inf"))]),
        pb.Scores(excerpts=[pb.Excerpt(start=-1, end=2)]),
    ],
)
def test_scores_that_cannot_be_are_not_believed(message: pb.Scores) -> None:
    with pytest.raises(ProtocolError):
        read_scores(message, QUERY)


def test_scores_are_told_as_they_are() -> None:
    """Rounded, for programs; and without what a terminal would obey."""
    found = read_scores(pb.Scores(times=[0.5], scores=[1.5], cuts=[0.5], excerpts=[EXCERPT], model="a\x1b"), QUERY)
    assert found.model == "a\\x1b"
    assert found.as_dict("film.mp4") == {
        "film": "film.mp4",
        "model": "a\\x1b",
        "excerpts": [{"start": 1.0, "end": 2.0, "score": 3.0, "weak": False}],
        "cuts": [0.5],
        "samples": [[0.5, 1.5]],
    }


@pytest.mark.parametrize(
    "message",
    [
        frames(first_frame=1),
        frames(pixel_format=frames_pb2.PIXEL_FORMAT_RGB24),
        frames(num_frames=0),
        frames(rate_denominator=0),
        frames(height=15),
        frames(width=32, height=16, crop_left=[0, 0], crop_top=[0, 0]),
        frames(width=9 * 2, height=16 * 2, crop_left=[0], crop_top=[0, 0]),
        frames(saliency=True),
    ],
)
def test_frames_that_were_not_asked_for_are_refused(message: pb.ExcerptFrames) -> None:
    with pytest.raises(ProtocolError):
        read_excerpt_frames(message, Query(images=[b"jpeg"], frames=True, crop=(9, 16)), 0)


def test_frames_are_announced() -> None:
    found = read_excerpt_frames(frames(), Query(images=[b"jpeg"], frames=True), 0)
    assert (found.fps, found.layout.pixel_format, found.num_frames) == (Fraction(30), PixelFormat.YUV420P, 2)
    cropped = frames(width=18, height=32, crop_left=[3, 4], crop_top=[0, 0])
    wanted = Query(images=[b"jpeg"], frames=True, crop=(9, 16), saliency=True)
    assert read_excerpt_frames(cropped, wanted, 0).crop_left == (3, 4)
    assert not found.saliency


def test_maps_are_announced_and_are_never_cropped() -> None:
    assert read_excerpt_frames(frames(saliency=True), Query(images=[b"jpeg"], crop=(9, 16), saliency=True), 0).saliency
    with pytest.raises(ProtocolError, match="frames came, which weren't asked for"):
        read_excerpt_frames(frames(), Query(saliency=True), 0)


@pytest.mark.parametrize(
    ("out", "count", "name"),
    [
        ("a/clip.mp4", 1, "a/clip.mp4"),
        ("a/clip.mp4", 2, "a/clip-2.mp4"),
        ("clip", 2, "clip-2"),
        ("a/%06d.png", 3, "a/2-%06d.png"),
    ],
)
def test_several_clips_are_numbered(out: str, count: int, name: str) -> None:
    """A lone one has the name that was given; a number before a % stays out of what it stands for."""
    assert numbered(out, 2, count) == name


def test_times_and_excerpts_are_readable() -> None:
    assert [clock(each) for each in (0, 59.96, 3755)] == ["0:00.0", "1:00.0", "1:02:35.0"]
    assert str(Excerpt(35, 40, 0.52, weak=True)) == "0:35.0-0:40.0, 0.5 sd, weak"
