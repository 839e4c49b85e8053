import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameLayout
from framehaul_client.errors import OutputClosed, OutputError
from framehaul_client.sinks.y4m import Y4mSink, y4m_header
from tests.support.pictures import HEIGHT, WIDTH, batches, deep_frames, largest_file, yuv_frames

YUV, DEEP = PixelFormat.YUV420P, PixelFormat.YUV420P10LE
LAYOUT = FrameLayout(pixel_format=YUV, height=HEIGHT, width=WIDTH)
DEEP_LAYOUT = FrameLayout(pixel_format=DEEP, height=HEIGHT, width=WIDTH)


def test_the_header_names_size_rate_and_siting() -> None:
    """C420jpeg is chroma in the centre."""
    assert y4m_header(LAYOUT, Fraction(24000, 1001)) == (
        b"YUV4MPEG2 W128 H96 F24000:1001 Ip A1:1 C420jpeg XYSCSS=420JPEG XCOLORRANGE=LIMITED\n"
    )
    assert b" C420p10 XYSCSS=420P10 " in y4m_header(DEEP_LAYOUT, Fraction(24))


@pytest.mark.parametrize("layout", [LAYOUT, DEEP_LAYOUT], ids=["8 bits", "10 bits"])
def test_the_reader_gets_every_frame_through_a_pipe(tmp_path: Path, layout: FrameLayout) -> None:
    """More than a pipe holds, in writes that are cut short: parsed back by FFmpeg, bit for bit."""
    frames = yuv_frames(20) if layout is LAYOUT else deep_frames(20)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as some programs leave it to their children
    path = tmp_path / "v.y4m"

    def copy() -> None:
        with path.open("wb") as out:
            while part := os.read(reading, 10_007):
                out.write(part)

    reader = threading.Thread(target=copy)
    reader.start()
    sink = Y4mSink(writing, layout.pixel_format, Fraction(25))
    sink.prepare()
    sink.start(layout)
    for batch in batches(frames):
        sink.write(batch)
    sink.finish()
    os.close(writing)
    reader.join()
    os.close(reading)
    assert sink.num_bytes == path.stat().st_size
    assert sink.abort() is None
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.codec_context.pix_fmt) == (Fraction(25), layout.pixel_format.value)
        assert stream.codec_context.color_range == 1
        decoded = np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
    assert np.array_equal(decoded, frames)


def test_a_reader_that_leaves_is_told_apart() -> None:
    """ffplay was closed: no error to show."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(OutputClosed):
            Y4mSink(writing, YUV, Fraction(24)).start(LAYOUT)
    finally:
        os.close(writing)


def test_a_full_disk_is_an_error() -> None:
    """stdout may be a file on a full disk."""
    file = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OutputError, match="stdout: No space left on device"):
            Y4mSink(file, YUV, Fraction(24)).start(LAYOUT)
    finally:
        os.close(file)


def test_a_disk_that_fills_up_in_a_frame_is_an_error(tmp_path: Path) -> None:
    """A write that is cut short goes on where it stopped, and then fails."""
    file = os.open(tmp_path / "v.y4m", os.O_WRONLY | os.O_CREAT)
    try:
        with largest_file(5000):
            sink = Y4mSink(file, YUV, Fraction(24))
            sink.start(LAYOUT)
            with pytest.raises(OutputError, match="stdout: File too large"):
                sink.write(batches(yuv_frames(1))[0])
    finally:
        os.close(file)
    assert sink.num_bytes == (tmp_path / "v.y4m").stat().st_size == 5000


def test_a_terminal_is_refused() -> None:
    """Raw video on a screen helps nobody."""
    controller, terminal = os.openpty()
    try:
        with pytest.raises(OutputError, match="stdout is a terminal"):
            Y4mSink(terminal, YUV, Fraction(24)).prepare()
    finally:
        os.close(controller)
        os.close(terminal)
