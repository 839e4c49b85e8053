"""Texts of the command line and the environment as values; each reader's error says what is allowed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TypeVar

from framehaul_pipeline.models.model import Model, describe_model
from framehaul_pipeline.models.plugins import find_kinds

ValueT = TypeVar("ValueT")


def reader(read: Callable[[str], ValueT]) -> Callable[[str], ValueT]:
    """Let argparse show our own text of a `ValueError`, and a plain one for numbers."""

    def checked(text: str) -> ValueT:
        try:
            return read(text)
        except ValueError as error:
            kind = {int: "a whole number", float: "a number"}.get(read) if isinstance(read, type) else None
            raise argparse.ArgumentTypeError(f"{text!r}: must be {kind}" if kind else str(error)) from error

    return checked


def read_gib(text: str) -> int:
    """Bytes of a number of GiB.

    Raises:
        ValueError: it is none.
    """
    try:
        return int(float(text) * (1 << 30))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r}: must be a number of GiB") from None


def read_models(texts: Sequence[str], plugins: Sequence[str]) -> tuple[Model, ...]:
    """The models that `NAME[=PATH]` texts name, with the decoders of `plugins`, modules, beside those installed.

    Raises:
        ValueError: one of them can't be served.
        InvalidInput: likewise.
    """
    kinds = find_kinds(plugins)
    return tuple(describe_model(text, kinds) for text in texts)


def read_area(text: str) -> int:
    """Pixels of `WIDTHxHEIGHT`.

    Raises:
        ValueError: it is none.
    """
    width, height = read_size(text)
    return width * height


def read_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Sizes separated by commas.

    Raises:
        ValueError: one of them is none.
    """
    return tuple(read_size(part) for part in text.split(",")) if text else ()


def read_size(text: str) -> tuple[int, int]:
    """Width and height of `WIDTHxHEIGHT`.

    Raises:
        ValueError: it is none.
    """
    width, _, height = text.partition("x")
    if not (width.isascii() and width.isdecimal() and height.isascii() and height.isdecimal()):
        raise ValueError(f"{text!r}: must be WIDTHxHEIGHT in pixels, like 1920x1088")
    return int(width), int(height)
