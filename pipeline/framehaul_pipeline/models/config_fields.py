"""Takes values out of a model's config.json, each checked as it is taken. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from framehaul_pipeline.errors import InvalidInput

_REPR_LENGTH: Final = 80
ValueT = TypeVar("ValueT")


class ConfigFields:
    """The fields of one config; a missing one takes its default, a wrong one is named."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Read from `config`, as JSON gives it."""
        self._config = config

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """Take a whole number in `low..high`.

        Raises:
            InvalidInput: it is none.
        """
        value = self._config.get(name, default)
        if isinstance(value, int) and _is_whole(value, low, high):
            return value
        raise self._refused(name, f"a whole number in {low}..{high}")

    def flag(self, name: str, *, default: bool) -> bool:
        """Take a truth value.

        Raises:
            InvalidInput: it is none.
        """
        value = self._config.get(name, default)
        if isinstance(value, bool):
            return value
        raise self._refused(name, "true or false")

    def number(self, name: str, default: float, *, positive: bool = False) -> float:
        """Take a finite number.

        Raises:
            InvalidInput: it is none, or not `positive`.
        """
        value = self._config.get(name, default)
        if _is_number(value, positive=positive):
            return float(value)
        raise self._refused(name, "a positive number" if positive else "a number")

    def wholes(self, name: str, default: tuple[int, ...], low: int, high: int, max_length: int) -> tuple[int, ...]:
        """Take a list of 1 to `max_length` whole numbers in `low..high`.

        Raises:
            InvalidInput: it is none.
        """
        value = self._config.get(name, default)
        if not _is_list(value, 1, max_length) or not all(_is_whole(item, low, high) for item in value):
            raise self._refused(name, f"a list of 1..{max_length} whole numbers in {low}..{high}")
        return tuple(value)

    def flags(self, name: str, default: tuple[bool, ...], length: int) -> tuple[bool, ...]:
        """Take a list of `length` truth values.

        Raises:
            InvalidInput: it is none.
        """
        value = self._config.get(name, default)
        if not _is_list(value, length, length) or not all(isinstance(item, bool) for item in value):
            raise self._refused(name, f"a list of {length} times true or false")
        return tuple(value)

    def numbers(
        self, name: str, default: tuple[float, ...], length: int, *, positive: bool = False
    ) -> tuple[float, ...]:
        """Take a list of `length` finite numbers.

        Raises:
            InvalidInput: it is none, or one isn't `positive`.
        """
        value = self._config.get(name, default)
        if not _is_list(value, length, length) or not all(_is_number(item, positive=positive) for item in value):
            raise self._refused(name, f"a list of {length} {'positive ' if positive else ''}numbers")
        return tuple(float(item) for item in value)

    def choice(self, name: str, default: ValueT, allowed: tuple[ValueT, ...]) -> ValueT:
        """Take one of `allowed`.

        Raises:
            InvalidInput: it is another value.
        """
        value = self._config.get(name, default)
        for known in allowed:
            if value == known and type(value) is type(known):
                return known
        raise self._refused(name, " or ".join(str(known) for known in allowed))

    def is_set(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._config.get(name) is not None

    def _refused(self, name: str, allowed: str) -> InvalidInput:
        text = repr(self._config.get(name))
        shown = text if len(text) <= _REPR_LENGTH else text[:_REPR_LENGTH] + ".."
        return InvalidInput(f"config.json {name}", shown, allowed)


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object, *, positive: bool) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return value > 0 or not positive


def _is_list(value: object, shortest: int, longest: int) -> bool:
    return isinstance(value, list | tuple) and shortest <= len(value) <= longest
