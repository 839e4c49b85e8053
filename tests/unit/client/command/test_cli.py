import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from framehaul_client.command import cli
from framehaul_client.command.stream import SAMPLE
from framehaul_client.errors import StreamFailed


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    """The command sets up this package's log for its whole process."""
    yield
    logging.getLogger("framehaul_client").handlers = []


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A latents file."""
    save_file({"latents": np.zeros((1, 4, 2, 4), np.float16)}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_a_bad_file_is_found_before_anything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2, one line, no output made."""
    code = cli.main(["stream", str(tmp_path / "none"), "--out", str(tmp_path / "out" / "v.mp4")])
    assert code == 2
    assert capsys.readouterr().err == f"client: {tmp_path / 'none'}: No such file or directory\n"
    assert not (tmp_path / "out").exists()


def test_no_name_drives_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name and its notes may be a stranger's."""
    path = tmp_path / "a\x1b[2J\u202e.safetensors"
    assert cli.main(["stream", str(path), "--out", str(tmp_path / "v.mp4")]) == 2
    assert capsys.readouterr().err == f"client: {tmp_path}/a\\x1b[2J\\u202e.safetensors: No such file or directory\n"


def test_a_wrong_output_is_found_before_anything_is_made(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2, with the allowed names."""
    assert cli.main(["stream", str(clip), "--out", "v.xyz"]) == 2
    assert "out=v.xyz: must be -, a name with %" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--out", "a.safetensors", "--container", "mp4"],
            "out=a.safetensors: must be another file than that of latents",
        ),
        (["--out", "s.mp4", "--audio", "./s.mp4"], "out=s.mp4: must be another file than that of audio"),
        (
            ["--out", "v.mp4", "--draft", "m", "--draft-out", "./v.mp4"],
            "draft-out=./v.mp4: must be another file than that of out",
        ),
        (["--out", "v.mp4", "--trace", "./v.mp4"], "trace=./v.mp4: must be another file than that of out"),
    ],
)
def test_nothing_of_the_users_is_replaced_by_an_output(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """2, before anything is made."""
    monkeypatch.chdir(clip.parent)
    assert cli.main(["stream", "a.safetensors", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--out", "long-2.mp4"], ["--dry-run", "--json", "./long-2.mp4"]])
def test_a_film_is_never_replaced_by_its_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """Nor by one of several, whose names are numbered."""
    monkeypatch.chdir(tmp_path)
    Path("long-2.mp4").write_bytes(b"x")
    assert cli.main(["highlight", "long-2.mp4", "--image", "i.jpg", *more]) == 2
    assert "another file than that of film" in capsys.readouterr().err
    assert cli.main(["highlight", "long-2.mp4", "--image", "i.jpg", "--clips", "3", "--out", "long.mp4"]) == 2
    assert "out=long-2.mp4: must be another file than that of film" in capsys.readouterr().err


def test_an_installation_without_the_sample_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way out is in the text."""
    monkeypatch.setattr("framehaul_client.command.stream.SAMPLE", tmp_path / "none")
    assert cli.main(["stream", "--out", str(tmp_path / "v.mp4")]) == 2
    assert "name a latents file" in capsys.readouterr().err


def test_the_sample_ships() -> None:
    """It lies inside the package."""
    assert SAMPLE.is_file()


def test_no_server(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3, soon, with the target and the reason; the temporary file is gone."""
    arguments = ["--target", "127.0.0.1:9", "--connect-timeout", "0.2"]
    assert cli.main(["stream", str(clip), "--out", str(tmp_path / "v.mp4"), *arguments]) == 3
    assert cli.main(["info", *arguments]) == 3
    assert cli.main(["models", *arguments]) == 3
    text = capsys.readouterr().err
    assert text.count("client: 127.0.0.1:9: no server answered within 0.2 s") == text.count("Connection refused") == 3
    assert list(tmp_path.iterdir()) == [clip]


@pytest.mark.parametrize("out", ["v.mp4", "-"])
def test_what_went_wrong_is_a_line_of_json_too(
    monkeypatch: pytest.MonkeyPatch, clip: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    """Where the report would have been, with the server's reason."""

    async def stalls(*_: object) -> None:
        error = StreamFailed("host: ABORTED: nothing moves")
        error.reason = "CLIENT_STALLED"
        raise error

    monkeypatch.setattr(cli, "stream", stalls)
    assert cli.main(["stream", str(clip), "--out", out, "--json"]) == 5
    printed = capsys.readouterr()
    said = "client: host: ABORTED: nothing moves\n"
    line = '{"error": "host: ABORTED: nothing moves", "reason": "CLIENT_STALLED", "exit_code": 5, "retry": true}\n'
    assert (printed.out, printed.err) == (("", line + said) if out == "-" else (line, said))


@pytest.mark.parametrize("out", ["v.mp4", "-"])
def test_a_farms_manager_hears_of_progress_and_failure_where_no_video_goes(
    clip: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, out: str
) -> None:
    """On stdout, or on stderr if that is for the video; the error's own line comes besides."""
    where = out if out == "-" else str(tmp_path / out)
    arguments = ["--target", "127.0.0.1:9", "--connect-timeout", "0.2", "--container", "mkv", "--progress", "openjd"]
    assert cli.main(["stream", str(clip), "--out", where, *arguments]) == 3
    printed = capfd.readouterr()
    lines = (printed.err if out == "-" else printed.out).splitlines()
    assert lines[0] == "openjd_status: connecting"
    (failed,) = [line for line in lines if line.startswith("openjd_fail: ")]
    assert "no server answered" in failed
    assert f"client: {failed.removeprefix('openjd_fail: ')}\n" in printed.err
    assert (printed.out == "") == (out == "-")


@pytest.mark.parametrize("debug", [False, True])
def test_a_fault_is_called_one(
    monkeypatch: pytest.MonkeyPatch, clip: Path, capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    """1; the traceback comes with --debug alone."""

    async def fail(*_: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(cli, "stream", fail)
    assert cli.main(["stream", str(clip), "--out", "v.mp4", *(["--debug"] if debug else [])]) == 1
    text = capsys.readouterr().err
    assert "client: fault: ZeroDivisionError: oops (please report it, with --debug)" in text
    assert ("Traceback" in text) == debug


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """130 and a word."""

    async def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "stream", interrupt)
    assert cli.main(["stream", str(clip), "--out", "v.mp4"]) == 130
    assert capsys.readouterr().err == "client: interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_is_cancelled_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, clip: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """143; what runs is cancelled and cleans up, and the handler is gone afterwards."""
    cleaned_up = []

    async def wait(*_: Any) -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            cleaned_up.append(True)

    monkeypatch.setattr(cli, "stream", wait)
    assert cli.main(["stream", str(clip), "--out", "v.mp4"]) == 143
    assert capsys.readouterr().err == "client: terminated\n"
    assert cleaned_up
    assert signal.getsignal(number) is signal.SIG_DFL


def test_it_imports_neither_torch_nor_the_server() -> None:
    """A render node has neither, nor what is for people who watch; indirect imports count."""
    program = (
        "import sys, framehaul_client.command.cli; print([name for name in sys.modules if name.split('.')[0] in %r])"
    )
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            program % (("torch", "framehaul_server", "framehaul_pipeline", "msgspec", "perfetto", "matplotlib"),),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "[]\n"
