from fractions import Fraction

import pytest

from framehaul_client.frames import PixelFormat
from framehaul_client.sinks.choice import choose_sink
from framehaul_client.sinks.images import ImageSink
from framehaul_client.sinks.video import VideoOptions, VideoSink
from framehaul_client.sinks.y4m import Y4mSink

RGB, YUV = PixelFormat.RGB24, PixelFormat.YUV420P


@pytest.mark.parametrize(
    ("out", "asked", "kind", "pixel_format"),
    [
        ("v.mp4", None, VideoSink, YUV),
        ("v.MKV", None, VideoSink, YUV),
        ("v.mov", RGB, VideoSink, RGB),
        ("f/%06d.png", None, ImageSink, RGB),
        ("f/%06d.PNG", RGB, ImageSink, RGB),
        ("-", None, Y4mSink, YUV),
        ("-", YUV, Y4mSink, YUV),
    ],
)
def test_the_name_decides(
    out: str, asked: PixelFormat | None, kind: type, pixel_format: PixelFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    """And with it the format that frames travel in."""
    with capfd.disabled():
        sink = choose_sink(out, asked, Fraction(24), VideoOptions())
    assert type(sink) is kind
    assert sink.pixel_format is pixel_format


@pytest.mark.parametrize(
    ("out", "asked", "message"),
    [
        ("v.webm", None, "out=v.webm: must be -, a name with % and .png, or end in .mp4, .mov, .mkv"),
        ("video", None, "out=video: must be"),
        ("f/1.png", None, "must hold one frame number"),
        ("f/%d.png", YUV, "format=yuv420p: out=f/%d.png takes rgb24 only"),
    ],
)
def test_what_does_not_fit_is_refused(out: str, asked: PixelFormat | None, message: str) -> None:
    """The text names the option, the value and the way out."""
    with pytest.raises(ValueError, match=message):
        choose_sink(out, asked, Fraction(24), VideoOptions())
