"""Finds decoders that are not our own: those that installed packages register, and those that modules hold.

For the server process; imports no torch, and no plugin may. Names are given to the worker as texts (`models`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import BUILT_IN, DecoderKind

GROUP: Final = "framehaul.decoders"
ATTRIBUTE: Final = "DECODER"
"""What a module that `--plugin` names calls its kind of decoder."""


def find_kinds(modules: Iterable[str] = ()) -> tuple[DecoderKind, ...]:
    """All kinds of decoders: the built-in ones, those of entry points in `GROUP`, those of `modules`.

    Raises:
        InvalidInput: one can't be imported or is something else, or two have a kind, a model or a class in common.
    """
    kinds = list(BUILT_IN)
    for entry in (
        *entry_points(group=GROUP),
        *(EntryPoint("--plugin", f"{name}:{ATTRIBUTE}", GROUP) for name in modules),
    ):
        kind = _load(entry)
        if kind not in kinds:  # a package may be installed and named as well
            _check_apart(kind, kinds, entry)
            kinds.append(kind)
    return tuple(kinds)


def _load(entry: EntryPoint) -> DecoderKind:
    had_torch = "torch" in sys.modules
    try:
        kind = entry.load()
    except Exception as error:  # whatever a stranger's module raises
        what = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"plugin {entry.value}", what, "importable, and name a DecoderKind") from error
    if not isinstance(kind, DecoderKind):
        raise InvalidInput(f"plugin {entry.value}", type(kind).__name__, "a DecoderKind")
    if "torch" in sys.modules and not had_torch:
        raise InvalidInput(f"plugin {entry.value}", "it imports torch", "without: the worker imports its `loader`")
    return kind


def _check_apart(kind: DecoderKind, others: Iterable[DecoderKind], entry: EntryPoint) -> None:
    for other in others:
        for what, name in _names(kind) & _names(other):
            raise InvalidInput(f"plugin {entry.value} {what}", name, f"another one than decoder {other.kind!r} has")


def _names(kind: DecoderKind) -> set[tuple[str, str]]:
    bare = {("model", spec.name) for spec in kind.models}
    return {("kind", kind.kind)} | bare | {("class", name) for name in kind.class_names}
