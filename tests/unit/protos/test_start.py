import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from framehaul.start import client, pipeline, start


@pytest.mark.parametrize("moment", ["", "def main():\n    "], ids=["import", "run"])
def test_ctrl_c_ends_a_command_without_a_traceback(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once while its modules are imported, by `KeyboardInterrupt` after that; 130 both times."""
    name = f"interrupted_{bool(moment)}"
    (tmp_path / f"{name}.py").write_text(f"import os, signal\n{moment}os.kill(os.getpid(), signal.SIGINT)\n")
    monkeypatch.syspath_prepend(tmp_path)

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if moment:
            assert start("client", name) == 130
        else:
            with pytest.raises(SystemExit, match="130"):
                start("client", name)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As shells start what runs in the background."""
    (tmp_path / "in_background.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\ndef main(): return 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert start("client", "in_background") == 7
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("command", ["client", "pipeline"])
def test_what_is_missing_is_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(command, "no_such_module") == 2
    assert f"{command}: no_such_module is not installed here" in capsys.readouterr().err


@pytest.mark.parametrize("command", [client, pipeline])
def test_each_command_has_its_own_way_in(
    command: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [command.__name__, "--help"])
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {command.__name__} ")
