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


def test_a_file_that_vanished_cannot_be_published(tmp_path: Path) -> None:
    """Somebody cleaned up too early: an error, not a success without a file."""
    partial = PartialFile(tmp_path / "v.mp4")
    os.unlink(partial.path)
    with pytest.raises(OutputError, match=r"v\.mp4: No such file"):
        partial.publish()
