"""Bar charts as small SVG files, for light and dark pages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

_WIDTH: Final = 720
_LABEL_WIDTH: Final = 300
_BAR_HEIGHT: Final = 20
_ROW_HEIGHT: Final = 28
_HEAD_HEIGHT: Final = 40
_VALUE_WIDTH: Final = 70
_OURS: Final = "#c2410c"
_OTHERS: Final = "#64748b"


def bars(title: str, rows: Sequence[tuple[str, float]], unit: str, ours: str) -> str:
    """A chart of one bar a row, from zero; the rows whose label contains `ours` stand out."""
    largest = max((value for _, value in rows), default=0.0) or 1.0
    room = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
    height = _HEAD_HEIGHT + _ROW_HEIGHT * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="13" role="img" aria-label="{escape(title)}">',
        "<style>text{fill:#1e293b}@media(prefers-color-scheme:dark){text{fill:#e2e8f0}}</style>",
        f'<text x="0" y="18" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for index, (label, value) in enumerate(rows):
        top = _HEAD_HEIGHT + index * _ROW_HEIGHT
        middle = top + _BAR_HEIGHT * 0.7
        length = round(room * value / largest, 1)
        colour = _OURS if ours in label else _OTHERS
        lines += [
            f'<text x="{_LABEL_WIDTH - 8}" y="{middle:.0f}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LABEL_WIDTH}" y="{top}" width="{length}" height="{_BAR_HEIGHT}" fill="{colour}"/>',
            f'<text x="{_LABEL_WIDTH + length + 6}" y="{middle:.0f}">{value:.3g} {escape(unit)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
