from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.sinks.choice import choose_sink
from framehaul_client.sinks.images import ImageSink
from framehaul_client.sinks.video import VideoSink
from framehaul_client.sinks.video_options import VideoOptions

RGB, YUV, DEEP, HALF = PixelFormat.RGB24, PixelFormat.YUV420P, PixelFormat.YUV420P10LE, PixelFormat.GBRPF16LE


@pytest.mark.parametrize(
    ("out", "asked", "kind", "pixel_format"),
    [
        ("v.mp4", None, VideoSink, YUV),
        ("v.MKV", None, VideoSink, YUV),
        ("v.mov", RGB, VideoSink, RGB),
        ("f/%06d.png", None, ImageSink, RGB),
        ("f/%06d.PNG", RGB, ImageSink, RGB),
        ("-", None, VideoSink, YUV),
        ("-", YUV, VideoSink, YUV),
        ("-", DEEP, VideoSink, DEEP),
        ("v.mp4", DEEP, VideoSink, DEEP),
        ("v.webm", None, VideoSink, YUV),
        ("v.y4m", DEEP, VideoSink, DEEP),
        ("/tmp/a.b/.ts", None, VideoSink, YUV),
        ("f/%06d.png", HALF, ImageSink, HALF),
        ("f/%06d.EXR", None, ImageSink, HALF),
    ],
)
def test_the_name_decides(out: str, asked: PixelFormat | None, kind: type, pixel_format: PixelFormat) -> None:
    """And with it the format that frames travel in."""
    sink = choose_sink(out, asked, lambda: Fraction(24), VideoOptions())
    assert type(sink) is kind
    assert sink.pixel_format is pixel_format


@pytest.mark.parametrize(
    ("video", "pixel_format"),
    [
        (VideoOptions(codec="prores_ks"), DEEP),
        (VideoOptions(encoded_format="yuv420p10le"), DEEP),
        (VideoOptions(codec="libx265"), YUV),
        (VideoOptions(codec="h264"), YUV),
        (VideoOptions(codec="libx264rgb"), RGB),
    ],
)
def test_an_encoders_depth_decides_what_it_is_given(video: VideoOptions, pixel_format: PixelFormat) -> None:
    """An encoder that takes 10 bits alone isn't given 8, nor an RGB one halved chroma."""
    assert choose_sink("v.mkv", None, lambda: Fraction(24), video).pixel_format is pixel_format


@pytest.mark.parametrize(
    ("out", "asked", "message"),
    [
        (
            "v.avi",
            None,
            "out=v.avi: must be -, a name with % and .png or .exr, or end in .mp4, .m4v, .mov, .mkv, .webm",
        ),
        ("video", None, "out=video: must be"),
        ("f/1.png", None, "must hold one frame number"),
        ("f/%d.png", YUV, "format=yuv420p: must be rgb24 or gbrpf16le for out=f/%d.png"),
        ("f/%d.exr", RGB, "format=rgb24: must be gbrpf16le for out=f/%d.exr"),
        ("v.mp4", HALF, "format=gbrpf16le: must be yuv420p or yuv420p10le or rgb24 for out=v.mp4"),
        ("-", HALF, "format=gbrpf16le: must be yuv420p or yuv420p10le or rgb24 for out=-"),
    ],
)
def test_what_does_not_fit_is_refused(out: str, asked: PixelFormat | None, message: str) -> None:
    """The text names the option, the value and the way out."""
    with pytest.raises(ValueError, match=message):
        choose_sink(out, asked, lambda: Fraction(24), VideoOptions())


def test_a_container_may_be_named(tmp_path: Path) -> None:
    """Where the name doesn't say it, or says another."""
    for out in ("-", str(tmp_path / "video"), "v.png", "v.mp4"):
        assert type(choose_sink(out, None, lambda: Fraction(24), VideoOptions(), "mkv")) is VideoSink


@pytest.mark.parametrize(
    ("asked", "video", "codec"),
    [
        (None, VideoOptions(), "rawvideo"),
        (RGB, VideoOptions(), "rawvideo"),
        (DEEP, VideoOptions(), "ffv1"),
        (None, VideoOptions(encoded_format="yuv444p"), "ffv1"),
        (None, VideoOptions(codec="libx264"), "libx264"),
    ],
)
def test_stdout_is_lossless_unless_an_encoder_is_named(
    asked: PixelFormat | None, video: VideoOptions, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw where Matroska can hold that."""
    with (tmp_path / "out").open("wb") as out:
        monkeypatch.setattr("sys.stdout", out)
        sink = choose_sink("-", asked, lambda: Fraction(24), video)
        sink.prepare()
        layout = FrameLayout(pixel_format=sink.pixel_format, height=96, width=128)
        sink.start(layout)
        sink.write(FrameBatch(0, np.zeros((1, *layout.shape), "<u2" if sink.pixel_format is DEEP else np.uint8)))
        sink.finish()
    with av.open(tmp_path / "out") as container:
        found = container.streams.video[0].codec_context
        assert found.codec.canonical_name == ("h264" if codec == "libx264" else codec)
        assert found.colorspace == 1


def test_images_have_no_rate() -> None:
    """So that a latents file with an impossible one is no obstacle."""

    def fail() -> Fraction:
        raise AssertionError

    assert choose_sink("%d.png", None, fail, VideoOptions()).fps is None
