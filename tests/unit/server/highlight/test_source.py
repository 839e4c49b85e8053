"""Where a film's bytes are."""

import os
from pathlib import Path

import pytest

from framehaul_pipeline.errors import InvalidInput, NotFound, Overloaded
from framehaul_server.highlight.source import UploadSpace, open_below


def test_a_file_below_the_root_is_opened_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "film").write_bytes(b"film")
    fd = open_below(tmp_path, "a/film")
    assert os.read(fd, 10) == b"film"
    os.close(fd)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for path, error in (("a/../a/film", InvalidInput), ("link/film", NotFound), ("a", NotFound), ("\0", InvalidInput)):
        with pytest.raises(error, match=r"open\.path"):
            open_below(tmp_path, path)


def test_uploads_share_their_room_and_give_it_back() -> None:
    space = UploadSpace(10)
    first = space.upload(6)
    with pytest.raises(Overloaded):
        space.upload(6)
    first.write(memoryview(b"123456"))
    first.check_whole()
    assert os.pread(first.fd, 10, 0) == b"123456"
    with pytest.raises(InvalidInput):
        first.write(memoryview(b"7"))
    first.close()
    first.close()
    second = space.upload(10)
    with pytest.raises(InvalidInput):
        second.check_whole()
    second.close()


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    upload = UploadSpace(10).upload(4)

    def full(_fd: int, _content: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Overloaded, match="No space left"):
        upload.write(memoryview(b"1234"))
    monkeypatch.undo()
    upload.close()
