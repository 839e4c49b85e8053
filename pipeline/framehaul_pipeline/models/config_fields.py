"""Takes values out of a model's config.json, each checked as it is taken. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from framehaul_pipeline.errors import InvalidInput

_REPR_LENGTH: Final = 80
ValueT = TypeVar("ValueT")


class ConfigFields:
    """The fields of one config; a missing one takes its default, a wrong one is named by an `InvalidInput`."""

    def __init__(self, config: Mapping[str, Any], source: str = "config.json") -> None:
        """Read from `config`, as JSON gives it; errors name `source` as the place."""
        self._config = config
        self._source = source

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """Take a whole number in `low..high`."""
        allowed = f"a whole number in {low}..{high}"
        return self._take(name, default, allowed, lambda value: _is_whole(value, low, high))

    def flag(self, name: str, *, default: bool) -> bool:
        """Take a truth value."""
        return self._take(name, default, "true or false", lambda value: isinstance(value, bool))

    def number(self, name: str, default: float, *, positive: bool = False) -> float:
        """Take a finite number, a `positive` one."""
        allowed = "a positive number" if positive else "a number"
        return float(self._take(name, default, allowed, lambda value: _is_number(value, positive=positive)))

    def wholes(self, name: str, default: tuple[int, ...], low: int, high: int, max_length: int) -> tuple[int, ...]:
        """Take a list of 1 to `max_length` whole numbers in `low..high`."""
        allowed = f"a list of 1..{max_length} whole numbers in {low}..{high}"
        return tuple(
            self._take(name, default, allowed, _list_of(lambda item: _is_whole(item, low, high), 1, max_length))
        )

    def flags(self, name: str, default: tuple[bool, ...], length: int) -> tuple[bool, ...]:
        """Take a list of `length` truth values."""
        allowed = f"a list of {length} times true or false"
        return tuple(self._take(name, default, allowed, _list_of(lambda item: isinstance(item, bool), length, length)))

    def numbers(
        self, name: str, default: tuple[float, ...], length: int, *, positive: bool = False
    ) -> tuple[float, ...]:
        """Take a list of `length` finite numbers, `positive` ones."""
        allowed = f"a list of {length} {'positive ' if positive else ''}numbers"
        fits = _list_of(lambda item: _is_number(item, positive=positive), length, length)
        return tuple(map(float, self._take(name, default, allowed, fits)))

    def choice(self, name: str, default: ValueT, allowed: tuple[ValueT, ...]) -> ValueT:
        """Take one of `allowed`."""
        return self._take(
            name,
            default,
            " or ".join(map(str, allowed)),
            lambda value: any(value == known and type(value) is type(known) for known in allowed),
        )

    def is_set(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._config.get(name) is not None

    def _take(self, name: str, default: ValueT, allowed: str, fits: Callable[[Any], bool]) -> ValueT:
        value: ValueT = self._config.get(name, default)
        if fits(value):
            return value
        text = repr(self._config.get(name))
        shown = text if len(text) <= _REPR_LENGTH else text[:_REPR_LENGTH] + ".."
        raise InvalidInput(f"{self._source} {name}", shown, allowed)


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object, *, positive: bool) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return value > 0 or not positive


def _list_of(fits: Callable[[Any], bool], shortest: int, longest: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and shortest <= len(value) <= longest and all(map(fits, value))
