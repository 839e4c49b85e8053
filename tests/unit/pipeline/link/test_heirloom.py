"""The file that a worker leaves to the next one."""

import os
import stat
from collections.abc import Iterator

import pytest

from framehaul_pipeline.link.heirloom import MAX_CONTENT_BYTES, Heirloom


@pytest.fixture
def heirloom() -> Iterator[Heirloom]:
    made = Heirloom.create()
    yield made
    made.close()
    made.close()


def test_what_was_written_last_is_read_by_whoever_has_a_descriptor(heirloom: Heirloom) -> None:
    """Nothing at first; a shorter content leaves nothing of a longer one."""
    heir = Heirloom(os.dup(heirloom.fd))
    assert heir.read() == b""
    for content in (b"all that it served with", b"less", b""):
        heirloom.write(content)
        assert heir.read() == content
    heir.close()


def test_a_write_that_takes_a_part_goes_on(heirloom: Heirloom, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: write(fd, content[:3], offset))
    heirloom.write(b"longer than three")
    assert heirloom.read() == b"longer than three"


def test_nobody_else_may_open_it_and_no_worker_can_make_it_larger(heirloom: Heirloom) -> None:
    """Its mode says so, for whoever finds it under /proc."""
    assert stat.S_IMODE(os.fstat(heirloom.fd).st_mode) == 0o600
    with pytest.raises(PermissionError):
        os.ftruncate(heirloom.fd, 1 << 30)
    with pytest.raises(ValueError, match="must be at most"):
        heirloom.write(bytes(MAX_CONTENT_BYTES + 1))
    assert heirloom.read() == b""


def test_what_a_death_cut_short_counts_as_nothing(heirloom: Heirloom, monkeypatch: pytest.MonkeyPatch) -> None:
    heirloom.write(b"from the worker before")
    write = os.pwrite

    def die_late(fd: int, content: bytes, offset: int) -> int:
        if content == b"new":
            raise InterruptedError
        return write(fd, content, offset)

    monkeypatch.setattr(os, "pwrite", die_late)
    with pytest.raises(InterruptedError):
        heirloom.write(b"new")
    assert heirloom.read() == b""
