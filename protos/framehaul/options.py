"""What the command lines of server, client and pipeline do alike."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

ValueT = TypeVar("ValueT")


class CommandParser(argparse.ArgumentParser):
    """A parser, and those of its commands, that tells what is wrong in one line; texts stand as they are written."""

    def __init__(self, **given: Any) -> None:
        """Make it of what argparse takes."""
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **given})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, without the usage: where there are many options it hides the reason."""
        self.exit(2, f"{self.prog}: error: {message}; --help says more\n")


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
