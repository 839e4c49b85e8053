"""What `client top` draws of a snapshot. Pure; needs rich."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from framehaul.causes import Cause
from framehaul_client.core.printable import printable
from framehaul_client.errors import ProtocolError

_LOOKS: Final = {
    Cause.DECODE: ("D", "green"),
    Cause.SHARED: ("H", "bright_green"),
    Cause.COPY: ("C", "magenta"),
    Cause.SLOTS: ("S", "yellow"),
    Cause.CLIENT_WINDOW: ("W", "bright_yellow"),
    Cause.NETWORK: ("N", "bright_magenta"),
    Cause.CLIENT_ENCODER: ("E", "red"),
    Cause.LATENTS: ("L", "blue"),
    Cause.IDLE: ("-", "bright_black"),
}
"""A letter and a colour for each."""
_SHORT: Final = {
    Cause.LATENTS: "latents",
    Cause.SHARED: "shared",
    Cause.CLIENT_WINDOW: "window",
    Cause.CLIENT_ENCODER: "encoder",
}
"""In the sessions' rows."""
_LEVELS: Final = " ▁▂▃▄▅▆▇█"
_WIDE: Final = 110
"""Columns from which the last minute has one for each second."""
_LINES_ABOVE: Final = 13
"""Of the sessions' rows."""


def draw(told: Mapping[str, Any], address: str, *, width: int, height: int | None) -> RenderableType:
    """The whole screen; `height` limits the sessions, None: all are shown.

    Raises:
        ProtocolError: it isn't a snapshot.
    """
    try:
        return Group(*_above(told, address, width), _sessions(told["sessions"], height))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ProtocolError(f"{address}: what came is no snapshot that this client understands") from error


def _above(told: Mapping[str, Any], address: str, width: int) -> list[RenderableType]:
    restarts = f", {told['restarts']:d} restarts" if told["restarts"] else ""
    head = Table.grid(expand=True)
    head.add_column(no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    server = f"framehaul {_name(told['version'])} on {_name(told['device'])}, worker {_name(told['worker'])}{restarts}"
    head.add_row(Text(f"{server}, up {_duration(told['up_s'])}"), Text(address, "dim"))
    lines: list[RenderableType] = [head]
    verdict, seconds = told["verdict"], 60 if width >= _WIDE else 30
    if verdict is None:
        lines += [Text("Nothing to tell yet", "bold"), Text()]
    else:
        text = _name(verdict["text"]).replace("bound by idle, ", "idle, ")
        lines.append(Text(text[:1].upper() + text[1:], "bold", no_wrap=True, overflow="ellipsis"))
        lines.append(Text(f"  {_name(verdict['advice'])}", "dim", no_wrap=True, overflow="ellipsis"))
        lines += [_bar(verdict["shares"], width), _legend(verdict["shares"])]
    lines.append(Text())
    timeline, busy, frames = told["timeline"], told["kernels_busy"], told["frames_per_s"]
    lines.append(
        Text.assemble(
            ("kernels busy  ", "dim"),
            (_spark(timeline["kernels_busy"], seconds, most=1.0), "green"),
            f"  {_percent(busy['now'])} now, {_percent(busy['minute'])} in the last minute",
            no_wrap=True,
            overflow="ellipsis",
        )
    )
    lines.append(
        Text.assemble(
            ("frames/s      ", "dim"),
            (_spark(timeline["frames"], seconds, most=max(1.0, *timeline["frames"])), "cyan"),
            f"  {_rate(frames['now'])} now, {_rate(frames['minute'])} in the last minute",
            no_wrap=True,
            overflow="ellipsis",
        )
    )
    lines.append(Text.assemble(("went to       ", "dim"), _leading(timeline["causes"], seconds)))
    lines += [_places(told), Text()]
    return lines


def _places(told: Mapping[str, Any]) -> Text:
    memory = told["memory"]
    of = f"/{_size(memory['all'])}" if memory["all"] else ""
    parked = f"  {told['parked']:d} parked" if told["parked"] else ""
    line = Text(no_wrap=True, overflow="ellipsis")
    for title, name in (("sessions", "places"), ("queue", "queue"), ("slots", "slots"), ("inlet", "inlet")):
        line.append(f"{title} ", "dim").append(f"{told[name]['used']:d}/{told[name]['all']:d}  ")
    return line.append("memory ", "dim").append(f"{_size(memory['used'])}{of}{parked}")


def _sessions(sessions: Sequence[Mapping[str, Any]], height: int | None) -> RenderableType:
    if len(sessions) == 0:
        return Text("no session is open", "dim")
    most = len(sessions) if height is None else max(1, height - _LINES_ABOVE)
    if most < len(sessions):
        most -= 1
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("tenant", no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column("model", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column("size", no_wrap=True)
    table.add_column("frames", justify="right", no_wrap=True)
    table.add_column("window", justify="right", no_wrap=True)
    table.add_column("waits for", no_wrap=True, overflow="ellipsis")
    table.add_column("bound by", no_wrap=True, overflow="ellipsis")
    for session in sessions[:most]:
        verdict, window = session["verdict"], session["window"]
        table.add_row(
            f"{session['number']:d}",
            Text(_name(session["tenant"])),
            Text(_name(session["model"])),
            f"{session['width']:d}x{session['height']:d}",
            f"{session['taken']:d}",
            f"{window['used']:d}/{window['all']:d}",
            _cause(session["waiting_for"]) if session["state"] == "served" else Text(_name(session["state"]), "bold"),
            _cause(verdict["bound_by"], verdict["share"]) if verdict else Text(),
        )
    if most == len(sessions):
        return table
    return Group(table, Text(f"and {len(sessions) - most} more", "dim"))


def _cause(name: str, share: float | None = None) -> Text:
    cause = next((cause for cause in Cause if cause.value == name), None)
    short = _name(name) if cause is None else _SHORT.get(cause, cause.value)
    return Text(short if share is None else f"{short} {_percent(share)}", _look(name)[1])


def _look(name: str) -> tuple[str, str]:
    return next((look for cause, look in _LOOKS.items() if cause.value == name), ("?", ""))


def _bar(shares: Mapping[str, float], width: int) -> Text:
    bar, done = Text(), 0.0
    for name, share in shares.items():
        until = min(1.0, done + share)
        bar.append("█" * (round(until * width) - round(done * width)), _look(name)[1])
        done = until
    return bar


def _legend(shares: Mapping[str, float]) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    for name, share in shares.items():
        if share >= 0.005:
            letter, color = _look(name)
            line.append(letter, f"bold {color}").append(f" {_name(name)} {_percent(share)}  ")
    return line


def _leading(causes: Mapping[str, Sequence[float]], columns: int) -> Text:
    """What most of each moment went to, by its letter."""
    line = Text()
    means = {name: _means(values, columns) for name, values in causes.items()}
    for index in range(columns):
        name = max(means, key=lambda each: means[each][index], default="")
        if name and means[name][index] > 0:
            line.append(*_look(name))
        else:
            line.append(" ")
    return line


def _spark(values: Sequence[float], columns: int, *, most: float) -> str:
    return "".join(_LEVELS[round(8 * min(1.0, max(0.0, value / most)))] for value in _means(values, columns))


def _means(values: Sequence[float], columns: int) -> list[float]:
    each = max(1, len(values) // columns)
    return [sum(values[start : start + each]) / each for start in range(0, each * columns, each)]


def _name(text: str) -> str:
    return printable(str(text))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    parts: Iterable[tuple[int, str]] = ((86400, "d"), (3600, "h"), (60, "min"))
    return next((f"{int(seconds // each)} {unit}" for each, unit in parts if seconds >= each), f"{int(seconds)} s")
