"""The file that a worker leaves to the next one."""

import os
import stat
from collections.abc import Iterator

import pytest

from framehaul_pipeline.link.heirloom import Heirloom


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


def test_nobody_else_may_open_it(heirloom: Heirloom) -> None:
    """Its mode says so, for whoever finds it under /proc."""
    assert stat.S_IMODE(os.fstat(heirloom.fd).st_mode) == 0o600
