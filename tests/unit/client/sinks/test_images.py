import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import OpenEXR
import pytest
from PIL import Image

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameLayout
from framehaul_client.errors import OutputError
from framehaul_client.sinks.images import EXR, PNG, PNG16, ImageEncoding, ImageSink
from tests.support.pictures import HEIGHT, WIDTH, batches, half_frames, rgb_frames

LAYOUT = FrameLayout(pixel_format=PixelFormat.RGB24, height=HEIGHT, width=WIDTH)


def write(pattern: Path, encoding: ImageEncoding, frames: np.ndarray[Any, Any]) -> ImageSink:
    sink = ImageSink(str(pattern), encoding)
    sink.prepare()
    sink.start(FrameLayout(pixel_format=encoding.pixel_format, height=HEIGHT, width=WIDTH))
    for batch in batches(frames):
        sink.write(batch)
    sink.finish()
    return sink


def write_half(pattern: Path, encoding: ImageEncoding, num_frames: int = 3) -> np.ndarray[Any, Any]:
    frames = half_frames(num_frames)
    write(pattern, encoding, frames)
    return frames


def test_every_image_equals_its_frame(tmp_path: Path) -> None:
    """Bit for bit, by two decoders, numbered from 0."""
    frames = rgb_frames(5)
    sink = write(tmp_path / "new" / "frame-%04d.png", PNG, frames)
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [f"frame-{index:04d}.png" for index in range(5)]
    assert sink.num_bytes == sum(path.stat().st_size for path in (tmp_path / "new").iterdir())
    for name, frame in zip(names, frames, strict=True):
        with Image.open(tmp_path / "new" / name) as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), frame)
        with av.open(str(tmp_path / "new" / name)) as container:
            assert np.array_equal(next(container.decode(video=0)).to_ndarray(format="rgb24"), frame)


def test_half_floats_are_16_bit_png(tmp_path: Path) -> None:
    """Each the nearest of 65536 levels, in R, G, B."""
    for index, planes in enumerate(write_half(tmp_path / "%d.png", PNG16)):
        expected = np.rint(planes[[2, 0, 1]].transpose(1, 2, 0).astype(np.float64) * 65535)
        with av.open(str(tmp_path / f"{index}.png")) as container:
            frame = next(container.decode(video=0))
            assert frame.format.name == "rgb48be"
            assert np.array_equal(frame.to_ndarray(), expected)


def test_half_floats_are_exr_bit_for_bit(tmp_path: Path) -> None:
    """As OpenEXR's own library reads them; it demands the attributes that the format does."""
    for index, planes in enumerate(write_half(tmp_path / "%d.exr", EXR)):
        with OpenEXR.File(str(tmp_path / f"{index}.exr"), separate_channels=True) as file:
            header, channels = file.header(), file.channels()
            for name, plane in zip("GBR", planes, strict=True):
                assert channels[name].pixels.dtype == np.float16
                assert np.array_equal(channels[name].pixels.view(np.uint16), plane.view(np.uint16))
            assert sorted(channels) == ["B", "G", "R"]
            assert header["chromaticities"] == pytest.approx((0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329))
            assert (header["compression"], header["pixelAspectRatio"]) == (OpenEXR.ZIPS_COMPRESSION, 1.0)


def test_ffmpeg_reads_the_exr_files_too(tmp_path: Path) -> None:
    """The table of chunks is right for those who trust it."""
    (planes,) = write_half(tmp_path / "%d.exr", EXR, 1)
    with av.open(str(tmp_path / "0.exr")) as container:
        frame = next(container.decode(video=0))
    for plane, expected in zip(frame.planes, planes, strict=True):
        assert np.array_equal(np.frombuffer(memoryview(plane), "<f2").reshape(HEIGHT, -1)[:, :WIDTH], expected)


@pytest.mark.parametrize(
    "pattern",
    [
        "frame.png",
        "%s.png",
        "%%.png",
        "a%db%d.png",
        "%",
        "f/%d/x.png",
        "%.png",
        "%c.png",
        "%6d%.png",
        "%0999999999d.png",
    ],
)
def test_a_pattern_must_name_one_file_for_each_frame(pattern: str) -> None:
    """Else frames would overwrite each other."""
    with pytest.raises(ValueError, match="must hold one frame number"):
        ImageSink(pattern, PNG)


def test_patterns_that_do() -> None:
    """With zeros in front or without."""
    for pattern in ("%d.png", "frames/%06d.png", "a-%012d-b.png"):
        ImageSink(pattern, PNG)


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("100% cut/%04d.png", "100% cut/0000.png"),
        ("%d/%d.png", "%d/0.png"),
        ("5%_%d.png", "5%_0.png"),
        ("%%-%d.png", "%%-0.png"),
        ("a:b/12:30_%d.png", "a:b/12:30_0.png"),
        ("a" * 245 + "%d.png", "a" * 245 + "0.png"),
    ],
)
def test_all_but_the_number_stands_as_it_is(tmp_path: Path, pattern: str, first: str) -> None:
    """Any name that the file system takes."""
    write(tmp_path / pattern, PNG, rgb_frames(2))
    assert (tmp_path / first).is_file()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_a_pipe_in_an_images_place_is_not_replaced(tmp_path: Path) -> None:
    """Nor is a name that is too long tried after the work."""
    os.mkfifo(tmp_path / "0.png")
    for pattern, message in (("%d.png", "0.png: is a pipe"), ("a" * 252 + "%d.png", "File name too long")):
        with pytest.raises(OutputError, match=message):
            ImageSink(str(tmp_path / pattern), PNG).prepare()
    assert (tmp_path / "0.png").is_fifo()


def test_the_last_number_must_fit_into_the_name_before_the_first_file_is_written(tmp_path: Path) -> None:
    """Of a clip whose length is known; as long as that number's, any name goes."""
    for num_frames, fits in ((10, True), (11, False)):
        sink = ImageSink(str(tmp_path / ("a" * 250 + "%d.png")), PNG)
        sink.prepare()
        if fits:
            sink.start(LAYOUT, num_frames)
        else:
            with pytest.raises(OutputError, match=r"a10\.png: File name too long"):
                sink.start(LAYOUT, num_frames)
        assert sink.abort() is None
    assert not list(tmp_path.iterdir())


def test_an_image_goes_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "0.png").symlink_to("real.png")
    write(tmp_path / "%d.png", PNG, rgb_frames(1))
    assert (tmp_path / "0.png").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "real.png"]


def test_a_folder_that_cannot_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    """A file is in the folder's place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: a file is in its way"):
        ImageSink(str(tmp_path / "file" / "%d.png"), PNG).prepare()


def test_an_image_that_cannot_be_written_leaves_no_part(tmp_path: Path) -> None:
    """The name is taken by a folder: the error names the file, and earlier images stay."""
    sink = ImageSink(str(tmp_path / "%d.png"), PNG)
    assert sink.abort() is None
    sink.prepare()
    sink.start(LAYOUT)
    (tmp_path / "2.png").mkdir()
    with pytest.raises(OutputError, match=r"2\.png: is a directory"):
        sink.write(batches(rgb_frames(3))[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png"]
    assert sink.abort() == tmp_path
