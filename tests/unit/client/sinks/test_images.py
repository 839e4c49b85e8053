from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from framehaul_client.errors import OutputError
from framehaul_client.frames import FrameLayout, PixelFormat
from framehaul_client.sinks.images import ImageSink, check_pattern
from tests.unit.client.sinks.pictures import HEIGHT, WIDTH, batches, rgb_frames

LAYOUT = FrameLayout(pixel_format=PixelFormat.RGB24, height=HEIGHT, width=WIDTH)


def test_every_image_equals_its_frame(tmp_path: Path) -> None:
    """Bit for bit, by two decoders, numbered from 0."""
    frames = rgb_frames(5)
    sink = ImageSink(str(tmp_path / "new" / "frame-%04d.png"))
    sink.prepare()
    sink.start(LAYOUT)
    for batch in batches(frames):
        sink.write(batch)
    sink.finish()
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [f"frame-{index:04d}.png" for index in range(5)]
    assert sink.num_bytes == sum(path.stat().st_size for path in (tmp_path / "new").iterdir())
    for name, frame in zip(names, frames, strict=True):
        with Image.open(tmp_path / "new" / name) as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), frame)
        with av.open(str(tmp_path / "new" / name)) as container:
            assert np.array_equal(next(container.decode(video=0)).to_ndarray(format="rgb24"), frame)


@pytest.mark.parametrize(
    "pattern",
    ["frame.png", "%s.png", "%%.png", "a%db%d.png", "%", "f/%d/x.png", "%d/%d.png", "%.png", "%c.png", "%6d%.png"],
)
def test_a_pattern_must_name_one_file_for_each_frame(pattern: str) -> None:
    """Else frames would overwrite each other."""
    with pytest.raises(ValueError, match="must hold one frame number"):
        ImageSink(pattern)


def test_patterns_that_do() -> None:
    """With zeros in front or without."""
    for pattern in ("%d.png", "frames/%06d.png", "a-%012d-b.png"):
        check_pattern(pattern)


def test_a_folder_that_cannot_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    """A file is in the folder's place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: a file is in its way"):
        ImageSink(str(tmp_path / "file" / "%d.png")).prepare()


def test_an_image_that_cannot_be_written_leaves_no_part(tmp_path: Path) -> None:
    """The name is taken by a folder: the error names the file, and earlier images stay."""
    sink = ImageSink(str(tmp_path / "%d.png"))
    assert sink.abort() is None
    sink.prepare()
    sink.start(LAYOUT)
    (tmp_path / "2.png").mkdir()
    with pytest.raises(OutputError, match=r"2\.png: Is a directory"):
        sink.write(batches(rgb_frames(3))[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png"]
    assert sink.abort() == tmp_path
