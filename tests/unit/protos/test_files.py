import os
import socket
from pathlib import Path

import pytest

from framehaul.files import NotAFile, check_apart, open_regular


def test_a_regular_file_is_opened_through_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path / "file", str(tmp_path / "link")):
        file = open_regular(path)
        assert os.pread(file, 9, 0) == b"x"
        assert not os.get_inheritable(file)
        os.close(file)


def test_what_is_no_file_is_refused_at_once_by_its_kind(tmp_path: Path) -> None:
    """A FIFO that nobody writes to isn't waited for, and nothing stays open."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    num_open = len(os.listdir("/proc/self/fd"))
    for path, kind in (
        (tmp_path / "fifo", "a pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path / "folder", "a directory"),
    ):
        with pytest.raises(NotAFile, match=f"^is {kind}: must be a regular file$") as refusal:
            open_regular(path)
        assert refusal.value.kind == kind
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_what_cant_be_opened_is_an_error_of_the_system(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        for name in ("none", "s"):
            with pytest.raises(OSError, match="No such"):
                open_regular(tmp_path / name)


@pytest.mark.parametrize("out", ["film", "./film", "link", "folder/../film", "plot", "plot-link"])
def test_an_output_replaces_neither_an_input_nor_another_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """By whatever name, and whether or not there is a file yet."""
    monkeypatch.chdir(tmp_path)
    Path("film").write_bytes(b"x")
    Path("folder").mkdir()
    Path("link").symlink_to("film")
    Path("plot-link").symlink_to("plot")
    taken = "film" if out not in ("plot", "plot-link") else "plot"
    outputs = [("plot", "plot"), ("out", out)]
    with pytest.raises(ValueError, match=f"^out={out}: must be another file than that of {taken}$"):
        check_apart(outputs, [("film", "film")])


def test_a_device_is_anybodys() -> None:
    """It isn't replaced."""
    check_apart([("out", "/dev/null"), ("plot", "/dev/null"), ("trace", "t")], [("film", "f")])
