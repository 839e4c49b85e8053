import sys

import pytest

from framehaul_server import __main__ as command
from framehaul_server import cli


def test_what_is_missing_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where only the client was installed, `server` ends with one line and no traceback."""
    monkeypatch.delitem(sys.modules, "framehaul_server.cli")
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert command.main() == 2
    assert capsys.readouterr().err == "server: uvloop is not installed here: pip install 'framehaul[server]'\n"


def test_the_exit_code_is_the_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done here but the import."""
    monkeypatch.setattr(cli, "main", lambda: 7)
    assert command.main() == 7
