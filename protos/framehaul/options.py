"""What the command lines of server, client and pipeline do alike."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TypeVar

ValueT = TypeVar("ValueT")


def option_type(read: Callable[[str], ValueT]) -> Callable[[str], ValueT]:
    """Let argparse show `read`'s own text of a `ValueError`."""

    def checked(text: str) -> ValueT:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def file_name(text: str) -> str:
    """A file's name as an option has it: shells leave a leading `~` alone after `--option=`."""
    return os.path.expanduser(text)
