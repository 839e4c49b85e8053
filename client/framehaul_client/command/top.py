"""`client top`: a server's live page in a terminal. Needs rich, so only `top` itself imports this.

The connection is read by a thread; the terminal and its keys are the main thread's.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from framehaul_client.access import Access
from framehaul_client.command.snapshots import MetricsAddress, Snapshots
from framehaul_client.command.top_screen import draw
from framehaul_client.errors import FramehaulError, InvalidOption, Refused, ServerUnavailable

_AGAIN_S: Final = 1.0
_ENDS: Final = b"qQ\x03\x04"
_KEYS: Final = "q ends this"


def top(address: MetricsAddress, access: Access, *, once: bool, out: TextIO | None = None) -> None:
    """Show the server until q or Ctrl-C, or `once`.

    Raises:
        InvalidOption: there is no terminal to show it on.
        FramehaulError: what is there isn't a server, or doesn't want to be seen; with `once` also: nobody is there.
    """
    out = out or sys.stdout
    if once:
        console = Console(file=out, color_system=None, highlight=False)
        told = Snapshots(address, access).latest()
        screen = draw(told, str(address), width=console.width, height=None)
        with console.capture() as captured:
            console.print(screen)
        out.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
        return
    if not (out.isatty() and sys.stdin.isatty()):
        raise InvalidOption("standard input and output are no terminal: --once prints how things are now, and ends")
    with _Reader(address, access) as reader, _keys() as keys, Live(screen=True, auto_refresh=False) as live:
        while True:
            readable, _, _ = select.select([keys, reader.news], [], [])
            if keys in readable and set(os.read(keys, 64)) & set(_ENDS):
                return
            if reader.news in readable:
                os.read(reader.news, 64)
                live.update(_screen(reader, str(address), live.console), refresh=True)


def _screen(reader: _Reader, address: str, console: Console) -> Group:
    if reader.error is not None:
        raise reader.error
    note = Text(f"{reader.lost}; trying again" if reader.lost else _KEYS, "bold red" if reader.lost else "dim")
    if reader.told is None:
        return Group(note)
    return Group(draw(reader.told, address, width=console.width, height=console.height - 1), note)


class _Reader:
    """Reads snapshots in a thread of its own, over one connection after the other."""

    def __init__(self, address: MetricsAddress, access: Access) -> None:
        self._snapshots = Snapshots(address, access)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.news, self._tell = os.pipe()
        """Readable when there is anything new."""
        self.told: dict[str, Any] | None = None
        """The newest snapshot."""
        self.lost = ""
        """Why there is none now."""
        self.error: FramehaulError | None = None
        """Why there will be none."""

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._snapshots.close()
        self._thread.join()
        os.close(self.news)
        os.close(self._tell)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                for told in self._snapshots.follow():
                    self.told, self.lost = told, ""
                    os.write(self._tell, b"1")
                    if self._ended.is_set():
                        return
            except (ServerUnavailable, Refused) as error:
                self.lost = str(error)
            except FramehaulError as error:
                self.error = error
            os.write(self._tell, b"1")
            if self.error is not None:
                return
            self._ended.wait(_AGAIN_S)


@contextmanager
def _keys() -> Iterator[int]:
    """Keys as they are pressed, Ctrl-C among them, without an echo."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)
    # Output goes on as it was: a line feed begins a line.
    now = termios.tcgetattr(descriptor)
    now[1] = before[1]
    termios.tcsetattr(descriptor, termios.TCSANOW, now)
    try:
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
