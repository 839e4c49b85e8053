import os
from pathlib import Path

import pytest

from framehaul_client.errors import OutputError
from framehaul_client.sinks.base import PartialFile


def test_two_writers_of_one_target_do_not_meet(tmp_path: Path) -> None:
    """Each has a file of its own; the last one to finish wins, whole."""
    first, second = PartialFile(tmp_path / "v.mp4"), PartialFile(tmp_path / "v.mp4")
    first.path.write_bytes(b"first")
    second.path.write_bytes(b"second!")
    second.publish()
    assert second.num_bytes == 7
    first.publish()
    assert (tmp_path / "v.mp4").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


def test_a_discarded_file_is_gone(tmp_path: Path) -> None:
    """Twice is fine."""
    partial = PartialFile(tmp_path / "v.mp4")
    partial.discard()
    partial.discard()
    assert partial.num_bytes == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("old", [b"old", None])
def test_of_a_link_the_file_that_it_leads_to_is_written(tmp_path: Path, old: bytes | None) -> None:
    """From whatever folder, and through links to links; the file may be still to be made, and its folder too."""
    target = tmp_path / "deep" / "real.mp4"
    if old is not None:
        target.parent.mkdir()
        target.write_bytes(old)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "first.mp4").symlink_to("second.mp4")
    (tmp_path / "links" / "second.mp4").symlink_to("../deep/real.mp4")
    partial = PartialFile(tmp_path / "links" / "first.mp4")
    partial.file.write(b"new")
    assert partial.path.parent == target.parent
    partial.publish()
    assert target.read_bytes() == b"new"
    assert [path.is_symlink() for path in (tmp_path / "links").iterdir()] == [True, True]
    assert list(target.parent.iterdir()) == [target]


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """Round in circles, or through something that is no folder."""
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "file").write_text("")
    (tmp_path / "through.mp4").symlink_to("file/v.mp4")
    for name, message in (("loop.mp4", r"loop\.mp4: Too many levels of symbolic links"), ("through.mp4", "in its way")):
        with pytest.raises(OutputError, match=message):
            PartialFile(tmp_path / name)
        assert (tmp_path / name).is_symlink()


def test_a_file_that_vanished_cannot_be_published(tmp_path: Path) -> None:
    """Somebody cleaned up too early: an error, not a success without a file."""
    partial = PartialFile(tmp_path / "v.mp4")
    os.unlink(partial.path)
    with pytest.raises(OutputError, match=r"v\.mp4: No such file"):
        partial.publish()
