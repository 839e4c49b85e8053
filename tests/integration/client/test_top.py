"""`client top` in a terminal of its own."""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from framehaul_client.command import cli
from framehaul_client.command.snapshots import MetricsAddress
from framehaul_server.observe.snapshot import snapshot
from tests.support.client_command import COMMAND
from tests.support.http_answers import answering
from tests.support.server_process import environment
from tests.support.server_view import server_view, session_view

SNAPSHOT = json.dumps(snapshot(server_view(session_view(1)), None)).encode()


class Terminal:
    """What the command wrote to its terminal."""

    def __init__(self, process: "subprocess.Popen[bytes]", descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self.text = ""

    def read_until(self, wanted: str) -> None:
        end = time.monotonic() + 60
        while wanted not in self.text:
            readable, _, _ = select.select([self._descriptor], [], [], end - time.monotonic())
            assert readable, f"no {wanted!r} in {self.text!r}"
            self.text += os.read(self._descriptor, 1 << 16).decode(errors="replace")

    def press(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def is_cooked(self) -> bool:
        return bool(termios.tcgetattr(self._descriptor)[3] & termios.ECHO)


@contextmanager
def top_on_a_terminal(address: MetricsAddress) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [*COMMAND, "top", str(address)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM="xterm"), start_new_session=True
    )
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)


@pytest.mark.parametrize("keys", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_it_shows_the_server_until_a_key_is_pressed(keys: bytes) -> None:
    """What it does when the server ends the connection is said; and the terminal is as it was."""
    with answering(200, b"data: " + SNAPSHOT + b"\n\n") as (address, asked), top_on_a_terminal(address) as terminal:
        terminal.read_until("framehaul 1.2.3 on cuda:0 NVIDIA H200")
        terminal.read_until("nobody has asked for frames")
        terminal.read_until("the server has ended the connection; trying again")
        while len(asked) < 2:
            terminal.read_until("832x480")
            terminal.text = ""
        assert not terminal.is_cooked()
        terminal.press(b"x" + keys)
        assert terminal.process.wait(60) == 0
        assert terminal.is_cooked()


def test_it_ends_when_it_may_not_look() -> None:
    with answering(403, b"") as (address, _), top_on_a_terminal(address) as terminal:
        terminal.read_until("may not watch: watch = true in the server's tokens file")
        assert terminal.process.wait(60) == 2
        assert terminal.is_cooked()


def test_once_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, SNAPSHOT) as (address, asked):
        assert cli.main(["top", str(address), "--once"]) == 0
    out = capsys.readouterr().out
    assert "Idle, 83 %\n  nobody has asked for frames\n" in out
    assert "\x1b" not in out
    assert asked == [("/snapshot", "")]


def test_without_a_terminal_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top"]) == 2
    text = "standard input and output are no terminal: --once prints how things are now, and ends"
    assert capsys.readouterr().err == f"client: {text}\n"


def test_without_rich_it_says_what_to_install(tmp_path: Path) -> None:
    """And only this command needs it."""
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError('none here', name='rich')")
    plain = environment(PYTHONPATH=str(tmp_path))
    ended = subprocess.run([*COMMAND, "top", "--once"], env=plain, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    needed = "client top draws with rich, which isn't installed: pip install 'framehaul[observe]'"
    assert ended.stderr == f"client: {needed}\n"
    check = "import sys, framehaul_client.command.cli; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
