import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from framehaul_server.access.reload import Watched, read_private, read_public


def watched(path: Path) -> Watched[int]:
    return Watched("number", (path,), lambda: int(path.read_text()))


def test_the_value_is_made_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    loads = []
    number = Watched("number", (path,), lambda: loads.append(path.read_text()))
    number.current()
    number.current()
    assert loads == ["1"]
    path.write_text("22")
    number.current()
    assert loads == ["1", "22"]


def test_a_file_of_the_same_size_put_in_its_place_is_noticed(tmp_path: Path) -> None:
    """As editors and certificate tools do it: a new file under the old name, the old time even."""
    path, new = tmp_path / "number", tmp_path / "new"
    path.write_text("1")
    number = watched(path)
    new.write_text("2")
    times = path.stat()
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.replace(path)
    assert number.current() == 2


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("x"), lambda path: path.unlink()])
def test_a_bad_file_keeps_the_old_value_and_is_told_once(
    tmp_path: Path, spoil: "object", caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "number"
    path.write_text("7")
    number = watched(path)
    assert callable(spoil)
    spoil(path)
    with caplog.at_level(logging.INFO):
        assert [number.current(), number.current()] == [7, 7]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "reload_failed what=number" in caplog.text
    path.write_text("8")
    assert number.current() == 8


def test_a_bad_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        watched(tmp_path / "missing")


@pytest.mark.parametrize("mode", [0o604, 0o601, 0o660, 0o620, 0o644])
def test_secrets_that_others_may_read_or_change_are_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(mode)
    with pytest.raises(ValueError, match=rf"secret: mode {mode:04o}: must be 0600, or 0640 for a group: chmod 600"):
        read_private(path)


@pytest.mark.parametrize("read", [read_private, read_public])
def test_only_regular_files_are_read(tmp_path: Path, read: Callable[[Path], bytes]) -> None:
    """A FIFO's writer is not waited for, and a device is not read without end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path, kind in ((fifo, "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a directory")):
        with pytest.raises(ValueError, match=f"{path}: is {kind}: must be a regular file"):
            read(path)
    with pytest.raises(OSError, match=f"^{tmp_path}/missing: No such file or directory$"):
        read(tmp_path / "missing")


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_secrets_of_a_user_or_a_group_are_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(mode)
    assert read_private(path) == b"x"
