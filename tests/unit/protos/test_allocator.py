import platform

import pytest

from framehaul.allocator import tune_allocator


def test_glibc_takes_both_settings() -> None:
    """`mallopt` returns 1 for a setting that it takes."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("no glibc here")
    assert tune_allocator()


def test_without_glibc_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other C libraries have other settings."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not tune_allocator()
