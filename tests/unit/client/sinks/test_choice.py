from fractions import Fraction

import pytest

from framehaul.formats import PixelFormat
from framehaul_client.sinks.choice import choose_sink
from framehaul_client.sinks.images import ImageSink
from framehaul_client.sinks.video import VideoSink
from framehaul_client.sinks.video_options import VideoOptions
from framehaul_client.sinks.y4m import Y4mSink

RGB, YUV, DEEP, HALF = PixelFormat.RGB24, PixelFormat.YUV420P, PixelFormat.YUV420P10LE, PixelFormat.GBRPF16LE


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
        ("-", DEEP, Y4mSink, DEEP),
        ("v.mp4", DEEP, VideoSink, DEEP),
        ("f/%06d.png", HALF, ImageSink, HALF),
        ("f/%06d.EXR", None, ImageSink, HALF),
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
    ("video", "pixel_format"),
    [
        (VideoOptions(codec="prores_ks"), DEEP),
        (VideoOptions(encoded_format="yuv420p10le"), DEEP),
        (VideoOptions(codec="libx265"), YUV),
        (VideoOptions(codec="libx264rgb"), RGB),
    ],
)
def test_an_encoders_depth_decides_what_it_is_given(video: VideoOptions, pixel_format: PixelFormat) -> None:
    """An encoder that takes 10 bits alone isn't given 8, nor an RGB one halved chroma."""
    assert choose_sink("v.mkv", None, Fraction(24), video).pixel_format is pixel_format


@pytest.mark.parametrize(
    ("out", "asked", "message"),
    [
        ("v.webm", None, "out=v.webm: must be -, a name with % and .png or .exr, or end in .mp4, .mov, .mkv"),
        ("video", None, "out=video: must be"),
        ("f/1.png", None, "must hold one frame number"),
        ("f/%d.png", YUV, "format=yuv420p: must be rgb24 or gbrpf16le for out=f/%d.png"),
        ("f/%d.exr", RGB, "format=rgb24: must be gbrpf16le for out=f/%d.exr"),
        ("v.mp4", HALF, "format=gbrpf16le: must be yuv420p or yuv420p10le or rgb24 for out=v.mp4"),
        ("-", RGB, "format=rgb24: must be yuv420p or yuv420p10le for out=-"),
    ],
)
def test_what_does_not_fit_is_refused(out: str, asked: PixelFormat | None, message: str) -> None:
    """The text names the option, the value and the way out."""
    with pytest.raises(ValueError, match=message):
        choose_sink(out, asked, Fraction(24), VideoOptions())
