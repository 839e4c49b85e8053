"""Draws a trace, such that what waits for what can be seen. One row a session, then the device, then the client."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from framehaul.causes import COLOURS, Cause
from framehaul_client.errors import InvalidOption
from framehaul_client.trace.reader import SessionRows, Slice, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _DPI = 14.0, 120
"""Of the picture, inches and pixels an inch."""
_LEFT, _RIGHT = 2.15, 0.3
"""Beside the rows, inches."""
_TOP, _BOTTOM = 0.95, 0.95
_ROW = 0.42
_MAX_SESSIONS: Final = 24
_GAP_NS: Final = 1_000_000
"""Shorter ones of the device aren't marked."""
_INK, _PALE, _GRID, _UNKNOWN = "#1a1a1a", "#6b6b6b", "#e4e4e4", "#f3f0ea"
_LATENTS = ("#009e73", "#33b18f")
"""Chunks, one after the other."""
_ORDER: Final = {colour: number for number, colour in enumerate((*COLOURS.values(), _LATENTS[1], _UNKNOWN, _INK))}
"""From below, where several share a pixel."""
_CAUSE_COLOURS: Final = {cause.value: colour for cause, colour in COLOURS.items()}

Bar = tuple[float, float, str]
"""From and to, and its colour."""


def draw(trace: Trace, kind: str) -> bytes:
    """Draw a trace as `kind`, png or svg.

    Raises:
        InvalidOption: there is nothing to draw it with.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidOption("pictures need the matplotlib package: pip install 'framehaul[observe]'") from None
    rows = _rows(trace)
    height = _TOP + _BOTTOM + _ROW * sum(row.height for row in rows)
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    plot = (_LEFT / _WIDTH, _BOTTOM / height, 1 - (_LEFT + _RIGHT) / _WIDTH, 1 - (_TOP + _BOTTOM) / height)
    axes = figure.add_axes(plot)
    start_ns, end_ns = trace.span_ns
    canvas = _Canvas(axes, start_ns, end_ns, (_WIDTH - _LEFT - _RIGHT) * _DPI)
    top = 0.0
    for row in rows:
        row.paint(canvas, top)
        top += row.height
    _finish_axes(axes, canvas, top)
    _write_heading(figure, trace, height)
    _write_legend(figure, trace, height)
    out = io.BytesIO()
    figure.savefig(out, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


class _Canvas:
    """The rows' area: time to the right, rows downwards."""

    def __init__(self, axes: Axes, start_ns: int, end_ns: int, width_px: float) -> None:
        span_ns = max(1, end_ns - start_ns)
        self._axes = axes
        self._start_ns = start_ns
        self.unit_ns, self.unit = (1_000_000_000, "s") if span_ns >= 2_000_000_000 else (1_000_000, "ms")
        self.span = span_ns / self.unit_ns
        self._px = self.span / width_px
        """A pixel's time."""

    def bars(self, slices: Iterable[Slice], colour: Callable[[int, Slice], str], top: float, height: float) -> None:
        """Paint slices; those that share a pixel one above the other."""
        from matplotlib.collections import PolyCollection

        wide: list[Bar] = []
        thin: list[Bar] = []
        for number, each in enumerate(slices):
            bar = (self.at(each.start_ns), self.at(each.end_ns), colour(number, each))
            (wide if bar[1] - bar[0] >= self._px else thin).append(bar)
        bottom = top + height
        boxes = {
            name: [(left, right, top, bottom) for left, right in found] for name, found in _by_colour(wide).items()
        }
        for name, stacked in self._stack(thin).items():
            boxes.setdefault(name, []).extend(
                (left, left + self._px, bottom - high * height, bottom - low * height) for left, low, high in stacked
            )
        for name, found in boxes.items():
            corners = [((left, low), (right, low), (right, high), (left, high)) for left, right, low, high in found]
            self._axes.add_collection(
                PolyCollection(corners, facecolors=name, linewidths=0, antialiaseds=False), autolim=False
            )

    def label(self, each: Slice, texts: Sequence[str], middle: float, ink: str) -> None:
        """Write the longest of `texts` that fits into a slice, if any does."""
        left, right = self.at(each.start_ns), self.at(each.end_ns)
        room_px = (right - left) / self._px
        text = next((text for text in texts if len(text) * 7.6 + 5 <= room_px), None)
        if text is not None:
            self._axes.text(
                (left + right) / 2, middle, text, color=ink, fontsize=7.5, ha="center", va="center", parse_math=False
            )

    def name(self, text: str, middle: float, *, small: str = "") -> None:
        """Write what a row is, to its left."""
        offset = 0.17 if small else 0.0
        place: dict[str, Any] = {
            "transform": self._axes.get_yaxis_transform(),
            "ha": "right",
            "va": "center",
            "parse_math": False,
        }
        self._axes.text(-0.008, middle - offset, _short(text, 30), fontsize=9, color=_INK, **place)
        if small:
            self._axes.text(-0.008, middle + offset, _short(small, 38), fontsize=7, color=_PALE, **place)

    def rule(self, at: float) -> None:
        """A line between rows."""
        self._axes.axhline(at, color=_GRID, linewidth=0.8, zorder=0)

    def at(self, ns: int) -> float:
        """Where a moment lies."""
        return (ns - self._start_ns) / self.unit_ns

    def is_wide(self, each: Slice) -> bool:
        """Whether it has a pixel of its own."""
        return (each.end_ns - each.start_ns) / self.unit_ns >= self._px

    def _stack(self, thin: Sequence[Bar]) -> dict[str, list[tuple[float, float, float]]]:
        """Each pixel's thin bars, one colour above the other by their shares of it: left, and from and to of 0..1.

        Half of the pixel is filled at least, so that a lone one is seen.
        """
        filled: dict[int, dict[str, float]] = {}
        for left, right, colour in thin:
            pixel = filled.setdefault(int(left / self._px), {})
            pixel[colour] = pixel.get(colour, 0.0) + (right - left)
        colours = sorted({colour for _, _, colour in thin}, key=_ORDER.__getitem__)
        found: dict[str, list[tuple[float, float, float]]] = {colour: [] for colour in colours}
        for index, pixel in filled.items():
            total = sum(pixel.values())
            scale = min(1.0, max(0.5, total / self._px)) / (total or 1.0)
            low = 0.0
            for colour in colours:
                if share := pixel.get(colour, 0.0) * scale:
                    found[colour].append((index * self._px, low, low + share))
                    low += share
        return found


class _SessionRow:
    """What a session waits for, and below it the frames that are sent."""

    height = 1.25

    def __init__(self, session: SessionRows) -> None:
        self._session = session

    def paint(self, canvas: _Canvas, top: float) -> None:
        session = self._session
        canvas.bars(_joined(session.waits), lambda _, each: _CAUSE_COLOURS.get(each.name, _UNKNOWN), top + 0.14, 0.66)
        canvas.bars(session.sends, lambda _, each: _INK, top + 0.86, 0.2)
        name, _, about = session.name.partition(" · ")
        canvas.name(name, top + 0.55, small=about)
        canvas.rule(top + self.height)


class _DeviceRow:
    """The device's chunks with the latents they are of, and the time in which it has none."""

    height = 1.25

    def __init__(self, trace: Trace) -> None:
        self._decode = sorted(trace.rows["decode"], key=lambda each: each.start_ns)
        self._several = len({each.session for each in self._decode}) > 1
        self._idle = [gap for gap in trace.idle() if gap[1] - gap[0] > _GAP_NS]

    def paint(self, canvas: _Canvas, top: float) -> None:
        canvas.bars(
            self._decode, lambda number, each: _LATENTS[number % 2 if canvas.is_wide(each) else 0], top + 0.14, 0.66
        )
        gaps = [Slice("idle", start_ns, end_ns) for start_ns, end_ns in self._idle]
        canvas.bars(gaps, lambda _, each: _INK, top + 0.86, 0.2)
        for each in self._decode:
            canvas.label(each, _chunk_labels(each.name, each.session if self._several else 0), top + 0.47, "white")
        for each in gaps:
            ms = (each.end_ns - each.start_ns) / 1e6
            canvas.label(each, (f"idle {ms:.1f} ms", f"{ms:.1f}"), top + 0.47, _PALE)
        canvas.name("device: decode", top + 0.55, small=f"{'session: ' if self._several else ''}latents; black: idle")
        canvas.rule(top + self.height)


class _PlainRow:
    """One kind of slices."""

    height = 0.95

    def __init__(self, name: str, small: str, slices: Sequence[Slice], cause: Cause) -> None:
        self._name = name
        self._small = small
        self._slices = slices
        self._colour = COLOURS[cause]

    def paint(self, canvas: _Canvas, top: float) -> None:
        canvas.bars(self._slices, lambda *_: self._colour, top + 0.14, 0.66)
        for each in self._slices:
            canvas.label(each, _chunk_labels(each.name), top + 0.47, _INK)
        canvas.name(self._name, top + 0.47, small=self._small)
        canvas.rule(top + self.height)


class _Note:
    """A line of text."""

    height = 0.7

    def __init__(self, text: str) -> None:
        self._text = text

    def paint(self, canvas: _Canvas, top: float) -> None:
        canvas.name(self._text, top + 0.35)


_Row = _SessionRow | _DeviceRow | _PlainRow | _Note


def _rows(trace: Trace) -> list[_Row]:
    shown, rest = trace.sessions[:_MAX_SESSIONS], len(trace.sessions) - _MAX_SESSIONS
    rows: list[_Row] = [_SessionRow(session) for session in shown]
    if rest > 0:
        rows.append(_Note(f"and {rest} more sessions"))
    if trace.rows.get("decode"):
        rows.append(_DeviceRow(trace))
    for kind, name, small, cause in (
        ("copy", "device: copy", "to the host", Cause.COPY),
        ("encode", "client: encoder", "frames", Cause.CLIENT_ENCODER),
    ):
        if slices := trace.rows.get(kind):
            rows.append(_PlainRow(name, small, slices, cause))
    return rows


def _finish_axes(axes: Axes, canvas: _Canvas, bottom: float) -> None:
    axes.set_xlim(0, canvas.span)
    axes.set_ylim(bottom, 0)
    axes.set_yticks([])
    axes.xaxis.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", colors=_PALE, labelsize=8.5, length=3, width=0.8)
    axes.set_xlabel(f"time, {canvas.unit}", color=_PALE, fontsize=9, loc="right")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_PALE)


def _write_heading(figure: Any, trace: Trace, height: float) -> None:
    verdict = trace.verdict
    title = (
        "A trace without sessions at the server" if verdict is None else f"{str(verdict)[0].upper()}{str(verdict)[1:]}"
    )
    left, about = 0.2 / _WIDTH, trace.about
    start_ns, end_ns = trace.span_ns
    parts = [_time(end_ns - start_ns)]
    parts += [str(about[name]) for name in ("target", "device") if about.get(name)]
    parts.append(f"{len(trace.sessions)} session{'' if len(trace.sessions) == 1 else 's'}")
    if decode := trace.rows.get("decode"):
        idle = trace.idle()
        idle_ns = sum(end - start for start, end in idle)
        whole_ns = max(each.end_ns for each in decode) - min(each.start_ns for each in decode) or 1
        long = sum(end - start > _GAP_NS for start, end in idle)
        parts.append(
            f"device idle {_time(idle_ns)} from first chunk to last, {100 * idle_ns / whole_ns:.1f} %, "
            f"{long} gap{'' if long == 1 else 's'} over 1 ms"
        )
    if lost := about.get("events left out"):
        parts.append(f"{lost} events left out")
    write = {"ha": "left", "va": "baseline", "parse_math": False}
    figure.text(left, 1 - 0.4 / height, title, fontsize=15, fontweight="bold", color=_INK, **write)
    figure.text(left, 1 - 0.67 / height, " · ".join(parts), fontsize=9, color=_PALE, **write)


def _write_legend(figure: Any, trace: Trace, height: float) -> None:
    """The causes that are there, and their shares of the sessions' time."""
    from matplotlib.patches import Patch

    verdict = trace.verdict
    shares = {} if verdict is None else verdict.shares
    handles = [Patch(color=COLOURS[cause], label=f"{cause.value} {_percent(share)}") for cause, share in shares.items()]
    if any(each.name not in _CAUSE_COLOURS for session in trace.sessions for each in session.waits):
        handles.append(Patch(color=_UNKNOWN, label="not known yet"))
    if trace.sessions:
        handles.append(Patch(color=_INK, label="frames are sent"))
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.2 / _WIDTH - 0.005, 0.08 / height),
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        handlelength=1.1,
        handleheight=1.1,
        columnspacing=1.4,
        labelcolor=_INK,
    )


def _joined(slices: Iterable[Slice]) -> list[Slice]:
    """The same with what follows at once, for the same cause, as one."""
    found: list[Slice] = []
    for each in sorted(slices, key=lambda each: each.start_ns):
        if found and found[-1].name == each.name and found[-1].end_ns >= each.start_ns:
            found[-1].end_ns = max(found[-1].end_ns, each.end_ns)
        else:
            found.append(Slice(each.name, each.start_ns, each.end_ns))
    return found


def _by_colour(bars: Iterable[Bar]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for left, right, colour in bars:
        found.setdefault(colour, []).append((left, right))
    return found


def _chunk_labels(name: str, session: int = 0) -> tuple[str, ...]:
    """Of "latents 3..5": "3-5", or if that is too long "3"; where there are several sessions "7: 3-5" and "7"."""
    numbers = name.rpartition(" ")[2]
    first = numbers.partition("..")[0]
    if not first.isdigit():
        return (name,)
    whole = numbers.replace("..", "-")
    return (f"{session}: {whole}", f"{session}") if session else (whole, first)


def _time(ns: int) -> str:
    return f"{ns / 1e9:.2f} s" if ns >= 1e9 else f"{ns / 1e6:.1f} ms"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "<1 %"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
