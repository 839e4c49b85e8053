"""Draws a film's scores over time: why an excerpt was chosen, and what else there is."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

from framehaul_client.core.highlights import Scores, clock
from framehaul_client.errors import InvalidOption

_INK, _PALE, _GRID = "#1a1a1a", "#6b6b6b", "#e4e4e4"
_BEST, _CUT = "#009e73", "#d55e00"
_SIZE, _DPI = (12.0, 4.0), 120


def check_drawing() -> None:
    """Find out whether pictures can be drawn.

    Raises:
        InvalidOption: there is nothing to draw them with.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidOption("pictures need the matplotlib package: pip install 'framehaul[observe]'")


def draw_scores(scores: Scores, film: str, kind: str) -> bytes:
    """Draw what was found in `film` as `kind`, png or svg.

    `check_drawing` comes first.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.06, 0.15, 0.91, 0.63))
    end_s = max([*scores.times, *(each.end for each in scores.excerpts)], default=1.0)
    if scores.times:
        held = [*scores.scores, scores.scores[-1]]
        axes.step([*scores.times, end_s], held, where="post", color=_INK, linewidth=1.2)
    low, high = min([*scores.scores, -1.0]), max([*scores.scores, 1.0])
    room = 0.14 * (high - low)
    axes.set_xlim(0, end_s)
    axes.set_ylim(low - room / 2, high + 2 * room)
    for cut in scores.cuts:
        axes.plot((cut, cut), (low - room / 2, low), color=_CUT, linewidth=1.2, solid_capstyle="butt")
    for number, each in enumerate(scores.excerpts):
        shade = _PALE if each.weak else _BEST
        axes.axvspan(each.start, each.end, color=shade, alpha=0.22 if number == 0 else 0.12, linewidth=0)
        axes.hlines(each.score, each.start, each.end, color=shade, linewidth=2.2)
        axes.text(
            (each.start + each.end) / 2,
            high + room,
            str(number + 1),
            color=shade,
            fontsize=11,
            fontweight="bold",
            ha="center",
            va="center",
        )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value).removesuffix(".0")))
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_PALE, labelsize=8.5, length=3, width=0.8)
    axes.set_ylabel("standard deviations", color=_PALE, fontsize=9)
    axes.set_xlabel("time; orange: cuts", color=_PALE, fontsize=9, loc="right")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_PALE)
    write: dict[str, Any] = {"ha": "left", "va": "baseline", "parse_math": False}
    best = scores.excerpts[0]
    title = f"{'A weak match' if best.weak else 'Best'}: {clock(best.start)} to {clock(best.end)}"
    about = f"{film} · {best.score:.1f} standard deviations above the film's mean · {len(scores.times)} samples"
    figure.text(0.02, 0.92, title, fontsize=15, fontweight="bold", color=_INK, **write)
    figure.text(0.02, 0.855, f"{about} · compared by {scores.model}", fontsize=9, color=_PALE, **write)
    out = io.BytesIO()
    figure.savefig(out, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()
