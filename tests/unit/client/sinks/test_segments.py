from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameLayout
from framehaul_client.errors import OutputError
from framehaul_client.sinks.choice import choose_sink
from framehaul_client.sinks.segments import SEGMENT_FRAMES, Plan, Segment, SegmentEncoders, plan_segments
from framehaul_client.sinks.video import VideoSink, _parameter_sets
from framehaul_client.sinks.video_options import VideoOptions
from tests.support.pictures import HEIGHT, WIDTH, batches, deep_frames, psnr, yuv_frames
from tests.unit.client.sinks.test_video import read

FPS = Fraction(24000, 1001)
YUV = FrameLayout(pixel_format=PixelFormat.YUV420P, height=HEIGHT, width=WIDTH)
DEEP = FrameLayout(pixel_format=PixelFormat.YUV420P10LE, height=HEIGHT, width=WIDTH)
NUM_FRAMES = 3 * SEGMENT_FRAMES + 10


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine with eight times as many cores as a small frame's encoder needs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return 8


def write(
    target: Path, frames: np.ndarray[Any, Any], layout: FrameLayout = YUV, *, size: int = 4, **options: Any
) -> VideoSink:
    sink = choose_sink(str(target), layout.pixel_format, lambda: FPS, VideoOptions(**options))
    assert isinstance(sink, VideoSink)
    sink.prepare()
    sink.start(layout, len(frames))
    for batch in batches(frames, size):
        sink.write(batch)
    sink.finish()
    return sink


def packets(path: Path) -> list[av.Packet[Any]]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("ts", "libx264"), ("mp4", "libx265")]
)
def test_a_file_of_segments_is_one_clip(cores: int, tmp_path: Path, suffix: str, codec: str) -> None:
    """Every frame, each time stamp once, decoding times that rise, key frames where it was cut, as good as by one."""
    frames = yuv_frames(NUM_FRAMES)
    write(tmp_path / f"many.{suffix}", frames, codec=codec, crf=18, preset="veryfast")
    write(tmp_path / f"one.{suffix}", frames, codec=codec, crf=18, preset="veryfast", more={"threads": "1"})
    many, one = packets(tmp_path / f"many.{suffix}"), packets(tmp_path / f"one.{suffix}")
    assert sorted(packet.pts or 0 for packet in many) == sorted(packet.pts or 0 for packet in one)
    assert [packet.dts for packet in many] == [packet.dts for packet in one]
    assert sum(packet.is_keyframe for packet in many) == 5
    assert sum(packet.is_keyframe for packet in one) == 1
    decoded = read(tmp_path / f"many.{suffix}")
    assert decoded.shape == frames.shape
    assert psnr(decoded, frames) > psnr(read(tmp_path / f"one.{suffix}"), frames) - 0.5


@pytest.mark.parametrize(
    ("layout", "codec"), [(YUV, "libx264"), (DEEP, "libx264"), (YUV, "libx265")], ids=["8 bits", "10 bits", "x265"]
)
def test_the_same_frames_give_the_same_bytes(cores: int, tmp_path: Path, layout: FrameLayout, codec: str) -> None:
    """However many come at once, and whichever encoder is held up."""
    frames = yuv_frames(NUM_FRAMES) if layout is YUV else deep_frames(NUM_FRAMES)
    write(tmp_path / "a.mp4", frames, layout, size=4, codec=codec, preset="ultrafast")
    whole = (tmp_path / "a.mp4").read_bytes()
    for size in (1, NUM_FRAMES):
        write(tmp_path / "b.mp4", frames, layout, size=size, codec=codec, preset="ultrafast")
        assert (tmp_path / "b.mp4").read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (8, 2)),
        ({"cores": 2}, None),
        ({"cores": 8}, None),
        ({"num_frames": None}, None),
        ({"num_frames": 151}, None),
        ({"num_frames": 161}, (8, 8)),  # all cores for few segments
        ({"size": (448, 256)}, (16, 3)),
        ({"size": (1280, 720)}, None),
        ({"size": (1280, 720), "cores": 32}, (8, 4)),
        ({"size": (1920, 1080)}, None),
        ({"cores": 128}, (18, 8)),  # half a gibibyte of frames
        ({"codec": "rawvideo"}, None),
        ({"codec": "libx265"}, (4, 4)),
        ({"codec": "libx265", "size": (1280, 720)}, None),
        ({"codec": "libsvtav1"}, None),
        ({"options": {"crf": "14", "preset": "slow", "tune": "grain", "bf": "2"}}, (8, 2)),
        ({"options": {"g": "24"}}, (8, 2)),
        ({"options": {"g": "250"}}, None),
        ({"options": {"keyint_min": "60"}}, None),
        ({"options": {"g": "-1"}}, None),
        ({"options": {"b": "8M"}}, None),
        ({"options": {"crf": "18", "maxrate": "8M", "bufsize": "16M"}}, None),
        ({"options": {"threads": "3"}}, None),
        ({"options": {"x264-params": "aq-mode=3:rc-lookahead=20"}}, (8, 2)),
        ({"options": {"x264-params": "vbv-maxrate=8000:vbv-bufsize=8000"}}, None),
        ({"options": {"x264-params": "keyint=600"}}, None),
    ],
)
def test_a_clip_is_cut_where_that_pays_and_changes_no_option(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: tuple[int, int] | None
) -> None:
    """Encoders and threads of each, by cores and size; one encoder where it has to see the whole clip."""
    given = {
        "cores": 16,
        "codec": "libx264",
        "options": {"crf": "18"},
        "size": (832, 480),
        "num_frames": 400,
        **changes,
    }
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(given["cores"])))
    num_pixels = given["size"][0] * given["size"][1]
    plan = plan_segments(given["codec"], given["options"], num_pixels, num_pixels * 3 // 2, given["num_frames"])
    assert (None if plan is None else (plan.num_encoders, plan.segments[0].num_threads)) == expected


@pytest.mark.parametrize("num_frames", [152, 153, 161, 1281])
def test_segments_add_up_and_none_is_longer_than_the_bound(cores: int, num_frames: int) -> None:
    """The last ones are short."""
    plan = plan_segments("libx264", {}, 128 * 96, 128 * 96, num_frames)
    assert plan is not None
    lengths = [segment.num_frames for segment in plan.segments]
    assert sum(lengths) == num_frames
    assert max(lengths) <= SEGMENT_FRAMES
    assert lengths[-1] == 8


def test_the_last_segments_have_more_threads(cores: int) -> None:
    """They are at work when the clip ends; and of the last one, threads share each frame."""
    plan = plan_segments("libx264", {}, 128 * 96, 128 * 96, 8 + 10 * SEGMENT_FRAMES)
    assert plan is not None
    threads = [segment.num_threads for segment in plan.segments]
    assert threads == [1] * 8 + [cores // 2] * 3
    assert [segment.thread_type for segment in plan.segments] == ["FRAME"] * 10 + ["SLICE"]


class Encoders:
    """Encoders that go on when they are let."""

    def __init__(self, num_encoders: int) -> None:
        self.go = threading.Event()
        self.num_made = 0
        self.fails_at: int | None = None
        self.encoders = SegmentEncoders(
            Plan(num_encoders, (Segment(SEGMENT_FRAMES, 1),)), self._open(), lambda _: self._open(), self._frame
        )

    def _open(self, _: Segment | None = None) -> Any:
        codec = av.CodecContext.create("ffv1", "w")
        assert isinstance(codec, av.VideoCodecContext)
        codec.width, codec.height, codec.pix_fmt, codec.time_base = WIDTH, HEIGHT, "yuv420p", 1 / FPS
        return codec

    def _frame(self, index: int, pixels: np.ndarray[Any, Any]) -> av.VideoFrame:
        self.go.wait(60)
        if index == self.fails_at:
            raise OSError("out of order")
        self.num_made += 1
        frame = av.VideoFrame.from_numpy_buffer(pixels, format="yuv420p")
        frame.pts, frame.time_base = index, 1 / FPS
        return frame


@pytest.fixture
def encoders() -> Iterator[Encoders]:
    made = Encoders(2)
    yield made
    made.go.set()
    made.encoders.close()
    made.encoders.close()
    for thread in threading.enumerate():
        if thread.name == "framehaul-segment":
            thread.join()


def test_no_more_frames_wait_than_the_bound(encoders: Encoders) -> None:
    """Two encoders that are held up hold two segments; whoever has more waits."""
    pixels = yuv_frames(1)[0]
    given: list[int] = []

    def give() -> None:
        for index in range(6 * SEGMENT_FRAMES):
            list(encoders.encoders.put(index, pixels))
            given.append(index)

    giver = threading.Thread(target=give)
    giver.start()
    giver.join(0.5)
    assert giver.is_alive()
    assert len(given) <= 2 * SEGMENT_FRAMES
    encoders.go.set()
    giver.join(60)
    assert given == list(range(6 * SEGMENT_FRAMES))
    list(encoders.encoders.finish())
    assert encoders.num_made == len(given)


def test_an_encoder_that_fails_stops_the_clip_where_it_failed(encoders: Encoders) -> None:
    """Packets before that come, and none after it."""
    encoders.fails_at = SEGMENT_FRAMES + 3
    encoders.go.set()
    pixels = yuv_frames(1)[0]
    found: list[int | None] = []

    def give() -> None:
        for index in range(3 * SEGMENT_FRAMES):
            found.extend(packet.pts for packet in encoders.encoders.put(index, pixels))
        found.extend(packet.pts for packet in encoders.encoders.finish())

    with pytest.raises(OSError, match="out of order"):
        give()
    assert found == list(range(len(found)))
    assert len(found) <= encoders.fails_at


def test_nothing_is_encoded_that_nobody_takes(encoders: Encoders) -> None:
    """When a clip is given up, its encoders stop at their next frame; one may be at a frame already."""
    for index in range(SEGMENT_FRAMES + 3):
        list(encoders.encoders.put(index, yuv_frames(1)[0]))
    encoders.encoders.close()
    encoders.go.set()
    for thread in threading.enumerate():
        if thread.name == "framehaul-segment":
            thread.join()
    assert encoders.num_made <= 2


def test_frames_so_far_are_kept_when_a_run_breaks_off(cores: int, tmp_path: Path) -> None:
    """All that were given."""
    sink = choose_sink(str(tmp_path / "v.mkv"), PixelFormat.YUV420P, lambda: FPS, VideoOptions())
    sink.prepare()
    sink.start(YUV, 1000)
    for batch in batches(yuv_frames(70)):
        sink.write(batch)
    kept = sink.abort()
    assert kept is not None
    assert len(read(kept)) == 70


def test_a_segment_with_another_header_is_refused(cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Players read the header once."""
    sink = choose_sink(str(tmp_path / "v.mp4"), PixelFormat.YUV420P, lambda: FPS, VideoOptions())
    assert isinstance(sink, VideoSink)
    sink.prepare()
    sink.start(YUV, NUM_FRAMES)
    monkeypatch.setitem(sink._encoder_options, "profile", "baseline")
    (batch,) = batches(yuv_frames(NUM_FRAMES), NUM_FRAMES)
    with contextlib.ExitStack() as stack:
        stack.callback(sink.abort)
        stack.enter_context(pytest.raises(OutputError, match="another header"))
        sink.write(batch)
        sink.finish()


def test_what_x265_says_of_its_threads_is_no_part_of_the_stream() -> None:
    """Its header has the number of frame threads in plain text; a size that is large enough for several shows it."""

    def opened(num_threads: int, **options: str) -> VideoCodecContext:
        codec = av.CodecContext.create("libx265", "w")
        assert isinstance(codec, VideoCodecContext)
        codec.width, codec.height, codec.pix_fmt = 832, 480, "yuv420p"
        codec.framerate, codec.time_base = FPS, 1 / FPS
        codec.flags |= Flags.global_header
        codec.thread_count = num_threads
        codec.options = {"preset": "ultrafast", "x265-params": "log-level=none", **options}
        codec.open()
        return codec

    one, four, other = opened(1), opened(4), opened(1, preset="slow")
    assert one.extradata != four.extradata
    assert len(_parameter_sets(one)) == 3
    assert _parameter_sets(one) == _parameter_sets(four) != _parameter_sets(other)
