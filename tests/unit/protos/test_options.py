"""What the command lines do alike."""

import pytest

from framehaul.options import file_name


@pytest.mark.parametrize(("text", "name"), [("~/v.mp4", "/home/me/v.mp4"), ("./~/v.mp4", "./~/v.mp4"), ("a~", "a~")])
def test_home_in_a_files_name(monkeypatch: pytest.MonkeyPatch, text: str, name: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert file_name(text) == name
