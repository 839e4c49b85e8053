"""What the command lines do alike."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO, cast

import pytest

from framehaul.options import CannotSay, CommandParser, file_name, open_standard_files, say


@pytest.mark.parametrize(("text", "name"), [("~/v.mp4", "/home/me/v.mp4"), ("./~/v.mp4", "./~/v.mp4"), ("a~", "a~")])
def test_home_in_a_files_name(monkeypatch: pytest.MonkeyPatch, text: str, name: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert file_name(text) == name


def _closed(script: str, *numbers: int) -> subprocess.CompletedProcess[bytes]:
    """Run Python with standard files closed."""

    def close() -> None:
        for number in numbers:
            os.close(number)

    return subprocess.run([sys.executable, "-c", script], preexec_fn=close, check=False, timeout=60)


@pytest.mark.parametrize("numbers", [(0,), (1,), (2,), (0, 1, 2)])
def test_nobody_gets_a_closed_standard_files_number(numbers: tuple[int, ...]) -> None:
    """Neither in this process nor in a child, and what is written there is written nowhere."""
    script = (
        "import os, subprocess, sys; from framehaul.options import open_standard_files; open_standard_files(); "
        "os.open('/proc/self/stat', 0) > 2 or sys.exit(1); print('text'); sys.stderr.write('text'); "
        "sys.exit(subprocess.call([sys.executable, '-c', 'import os; [os.fstat(number) for number in range(3)]']))"
    )
    assert _closed(script, *numbers).returncode == 0


def test_stdout_that_cant_be_written_is_an_error_once() -> None:
    """Python writes again at exit what is left."""
    script = (
        "import sys; from framehaul.options import CannotSay, say\n"
        "try: say('text', sys.stdout)\n"
        "except CannotSay as error: sys.exit(str(error))"
    )
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"stdout: No space left on device\n")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["--long"], "program: error: the following arguments are required: COMMAND; --help says more"),
        (
            ["command", "--long=2"],
            "program: error: unrecognized arguments: --long=2; --help says more",
        ),
        (["command", "--longer=x"], "argument --longer: invalid int value: 'x'; --help says more"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(capsys: pytest.CaptureFixture[str], given: list[str], text: str) -> None:
    parser = CommandParser(prog="program")
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("command")
    command.add_argument("--longer", type=int)
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(given)
    told = capsys.readouterr().err
    assert (exit_.value.code, told.count("\n")) == (2, 1)
    assert text in told


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(28, "No space"), CannotSay), (BrokenPipeError(), BrokenPipeError)]
)
def test_a_line_that_cant_be_said(tmp_path: Path, error: OSError, told: type[Exception]) -> None:
    """A reader that has gone is another matter. What is written afterwards goes nowhere."""
    with open(tmp_path / "out", "w") as out:
        with pytest.raises(told):
            say("text", cast(TextIO, Failing(out, error)))
        out.write("more")
    assert (tmp_path / "out").read_bytes() == b""


class Failing:
    """Stdout, but for its `write`."""

    def __init__(self, out: TextIO, error: OSError) -> None:
        self.fileno = out.fileno
        self._error = error

    def write(self, text: str) -> None:
        raise self._error


def test_a_closed_file_becomes_the_null_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    open_standard_files()
    with sys.stdin as opened:
        assert opened.read() == ""
        assert os.get_inheritable(opened.fileno())
