"""What the command lines do alike."""

import pytest

from framehaul.options import CommandParser, file_name


@pytest.mark.parametrize(("text", "name"), [("~/v.mp4", "/home/me/v.mp4"), ("./~/v.mp4", "./~/v.mp4"), ("a~", "a~")])
def test_home_in_a_files_name(monkeypatch: pytest.MonkeyPatch, text: str, name: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert file_name(text) == name


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
