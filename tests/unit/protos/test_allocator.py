import platform

import pytest

from framehaul.allocator import give_back, tune_allocator


def test_glibc_takes_both_settings() -> None:
    """`mallopt` returns 1 for a setting that it takes."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("no glibc here")
    assert tune_allocator()


def test_without_glibc_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other C libraries have other settings."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not tune_allocator()
    assert not give_back()


def test_freed_blocks_are_given_back() -> None:
    """Many small ones, so that they come from the heap."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("no glibc here")
    blocks = [bytearray(64 << 10) for _ in range(1000)]
    last = bytearray(64 << 10)
    del blocks
    assert give_back()
    assert last
