"""What others wrote, made safe for a terminal; pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape what a terminal would obey or hide: control characters, line breaks, marks of direction."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
