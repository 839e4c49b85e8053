import itertools
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.sinks import parts
from framehaul_client.sinks.choice import choose_sink
from framehaul_client.sinks.video import VideoSink
from framehaul_client.sinks.video_options import VideoOptions
from tests.support.pictures import HEIGHT, WIDTH, batches, psnr, yuv_frames
from tests.unit.client.sinks.test_video import read

YUV = FrameLayout(pixel_format=PixelFormat.YUV420P, height=HEIGHT, width=WIDTH)
ENDS = (40, 60, 130)


def sink_for(target: Path, **options: Any) -> VideoSink:
    video = VideoOptions(in_parts=True, **options)
    sink = choose_sink(str(target), PixelFormat.YUV420P, lambda: Fraction(24), video)
    assert isinstance(sink, VideoSink)
    sink.come_in_parts(ENDS)
    sink.prepare()
    sink.start(YUV, ENDS[-1])
    return sink


def by_part(frames: np.ndarray[Any, Any]) -> list[list[FrameBatch]]:
    found = []
    for start, end in itertools.pairwise((0, *ENDS)):
        found.append([FrameBatch(start + each.first_frame, each.frames) for each in batches(frames[start:end], 5)])
    return found


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_parts_that_come_in_any_order_make_one_clip(tmp_path: Path, seed: int | None) -> None:
    """The last part first, or by turns: every frame in its place."""
    frames, queues, rng = yuv_frames(ENDS[-1]), by_part(yuv_frames(ENDS[-1])), random.Random(seed)
    sink = sink_for(tmp_path / "v.mkv", codec="ffv1")
    while queues := [queue for queue in queues if queue]:
        sink.write((queues[-1] if seed is None else rng.choice(queues)).pop(0))
    sink.finish()
    assert np.array_equal(read(tmp_path / "v.mkv"), frames)


def test_the_file_doesnt_tell_in_which_order_parts_came(tmp_path: Path) -> None:
    """The same bytes, as good as one clip."""
    frames = yuv_frames(ENDS[-1])
    for name, order in (("a.mp4", by_part(frames)), ("b.mp4", reversed(by_part(frames)))):
        sink = sink_for(tmp_path / name)
        for batch in itertools.chain(*order):
            sink.write(batch)
        sink.finish()
    assert psnr(read(tmp_path / "a.mp4"), frames) > 38
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_what_waits_for_earlier_parts_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later parts wait then; the first one that lacks frames never does."""
    monkeypatch.setattr(parts, "MOST_SPOOLED_BYTES", 1)
    first, second, third = by_part(yuv_frames(ENDS[-1]))
    sink = sink_for(tmp_path / "v.mkv", codec="rawvideo")
    while sink.has_room(third[0]):
        sink.write(third.pop(0))
    assert third
    assert not sink.has_room(second[0])
    assert sink.has_room(first[0])
    for batch in first:
        sink.write(batch)
    assert sink.has_room(second[0])
    for batch in second + third:
        sink.write(batch)
    sink.finish()
    assert len(read(tmp_path / "v.mkv")) == ENDS[-1]


def test_a_run_that_breaks_off_keeps_frames_without_a_gap(tmp_path: Path) -> None:
    """The beginning of the clip, as far as it has come."""
    first, second, _ = by_part(yuv_frames(ENDS[-1]))
    sink = sink_for(tmp_path / "v.mkv", codec="ffv1")
    for batch in [*second, *first[:2]]:
        sink.write(batch)
    kept = sink.abort()
    assert kept is not None
    assert np.array_equal(read(kept), yuv_frames(10))


def test_what_is_kept_over_a_whole_clip_cant_come_in_parts(tmp_path: Path) -> None:
    """Said before a session is opened."""
    with pytest.raises(ValueError, match="b=2M: is kept over a whole clip"):
        sink_for(tmp_path / "v.mp4", more={"b": "2M"})
