"""What the command lines of server, client and pipeline do alike."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO, TypeVar

ValueT = TypeVar("ValueT")


class CommandParser(argparse.ArgumentParser):
    """A parser, and those of its commands, that tells what is wrong in one line; texts stand as they are written."""

    def __init__(self, **given: Any) -> None:
        """Make it of what argparse takes."""
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **given})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, without the usage: where there are many options it hides the reason."""
        self.exit(2, f"{self.prog}: error: {message}; --help says more\n")


class CannotSay(Exception):
    """What was to be said can't be written: the disk under stdout is full, say."""


def open_standard_files() -> None:
    """Put the null device where stdin, stdout or stderr is closed: the next file or socket would get its number.

    Before anything else is opened, then, and for child processes too.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, mode))  # noqa: SIM115  it stays open


def say(line: str, out: TextIO) -> None:
    """Write a line to stdout, or to what stands for it, at once.

    Raises:
        BrokenPipeError: its reader has gone.
        CannotSay: it can't be written.
    """
    try:
        out.write(f"{line}\n")
        out.flush()
    except OSError as error:
        forget(out)
        if isinstance(error, BrokenPipeError):
            raise
        raise CannotSay(f"stdout: {error.strerror}") from error


def forget(out: TextIO) -> None:
    """Point `out` to nowhere: Python writes what is left of it once more at exit, and would complain."""
    with contextlib.suppress(OSError):  # tests have no descriptor
        number = out.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def option_type(read: Callable[[str], ValueT]) -> Callable[[str], ValueT]:
    """Let argparse show `read`'s own text of a `ValueError`."""

    def checked(text: str) -> ValueT:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def reader(read: Callable[[str], ValueT], allowed: str) -> Callable[[str], ValueT]:
    """Let `read` say what is `allowed` where its own `ValueError` is Python's."""

    def checked(text: str) -> ValueT:
        try:
            return read(text)
        except (ValueError, OverflowError):
            raise ValueError(f"{text!r}: must be {allowed}") from None

    return checked


def file_name(text: str) -> str:
    """A file's name as an option has it: shells leave a leading `~` alone after `--option=`."""
    return os.path.expanduser(text)


def named_value(text: str) -> tuple[str, str]:
    """Read `NAME=VALUE`.

    Raises:
        ValueError: it isn't that.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{text}: must be NAME=VALUE")
    return name, value
