"""Texts of the command line as values; each reader's error says what is allowed. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from framehaul_client.core.session_config import check_priority, check_retry_for

ValueT = TypeVar("ValueT")


def priority(text: str) -> int:
    """A session's priority.

    Raises:
        ValueError: it is none, with what is allowed.
    """
    return check_priority(int(text))


def retry_for(text: str) -> float:
    """How long to try to take a session up again, in seconds.

    Raises:
        ValueError: it is none, with what is allowed.
    """
    return check_retry_for(float(text))


def size(text: str) -> tuple[int, int]:
    """Width and height of `WIDTHxHEIGHT`.

    Raises:
        ValueError: it is none.
    """
    width, _, height = text.partition("x")
    if not all(side.isascii() and side.isdecimal() and 0 < int(side) < 1 << 20 for side in (width, height)):
        raise ValueError(f"{text}: must be WIDTHxHEIGHT in pixels, like 832x480")
    return int(width), int(height)


def seconds(text: str) -> float:
    """A timeout.

    Raises:
        ValueError: it is none, with what is allowed.
    """
    given = float(text)
    if not 0 < given <= 3600:
        raise ValueError(f"{text}: must be over 0 and up to 3600 seconds")
    return given


def number(parse: Callable[[str], ValueT]) -> Callable[[str], ValueT]:
    """Let argparse show our own text of a `ValueError`."""

    def convert(text: str) -> ValueT:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert
