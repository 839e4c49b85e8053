"""What every benchmark shares: rounds in rotated order, medians, tables, the header that says where figures come from.

Pure but for `environment`, which reads this machine, and `Results.write`.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeVar

_PACKAGES: Final = (
    "torch",
    "grpcio",
    "protobuf",
    "uvloop",
    "msgspec",
    "numpy",
    "av",
    "crc32c",
    "aiohttp",
    "websockets",
    "pyzmq",
)
CaseT = TypeVar("CaseT")


def percentile(values: Iterable[float], percent: float) -> float:
    """Value that `percent` of `values` don't exceed, linear between neighbours; NaN when there are none.

    Raises:
        ValueError: `percent` is not a percentage.
    """
    if not 0.0 <= percent <= 100.0:
        raise ValueError(f"percent={percent}: must be 0..100")
    ordered = sorted(values)
    if not ordered:
        return math.nan
    position = (len(ordered) - 1) * percent / 100.0
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def union_length(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of `(start, end)` intervals: time in which at least one was on."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Rise for each unit of the way, by least squares over `(x, y)`; NaN where all points have one x."""
    if not points:
        return math.nan
    mean_x, mean_y = (statistics.fmean(values) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else math.nan


def rotated(cases: Sequence[CaseT], round_index: int) -> list[CaseT]:
    """`cases` beginning at another one each round, so that none always runs after the same neighbour's mess."""
    start = round_index % len(cases) if cases else 0
    return [*cases[start:], *cases[:start]]


def run_rounds(
    cases: Sequence[CaseT], num_rounds: int, measure: Callable[[CaseT], dict[str, float]]
) -> dict[CaseT, dict[str, float]]:
    """Measure every case in every round.

    Returns:
        For each case the medians of what `measure` gave, and under `spread` the largest over the smallest value of its
        first figure.
    """
    samples: dict[CaseT, list[dict[str, float]]] = {case: [] for case in cases}
    for round_index in range(num_rounds):
        for case in rotated(cases, round_index):
            samples[case].append(measure(case))
    return {case: medians(rounds) for case, rounds in samples.items()}


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median of each figure over `rounds`, and the `spread` of the first one."""
    result = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    first = next(iter(rounds[0]))
    smallest = min(each[first] for each in rounds)
    result["spread"] = max(each[first] for each in rounds) / smallest if smallest else math.nan
    return result


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; floats get three significant digits."""
    lines = [heads, ["---"] * len(heads), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return "-"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def environment(device: str | None = None) -> dict[str, str]:
    """Date, machine, versions and command of this run; no names of hosts or folders.

    Args:
        device: what decoded, when it isn't the CPU.
    """
    versions = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    cpus = len(os.sched_getaffinity(0))
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {cpus} CPUs{'' if device is None else f', {device}'}",
        "load": f"{os.getloadavg()[0]:.1f} processes waiting at the start",
        "system": f"Linux {platform.release().split('-')[0]}, {' '.join(platform.libc_ver())}",
        "versions": ", ".join(versions),
        "command": command_line(sys.orig_argv),
    }


def command_line(argv: Sequence[str]) -> str:
    """The command without the folders that its programs lie in."""
    return shlex.join(["python", *(arg for arg in argv[1:] if not arg.startswith("/"))])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@dataclass(kw_only=True)
class Results:
    """What one program found: figures for machines, sections of Markdown for people."""

    name: str
    title: str
    device: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    paragraphs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Note the environment at the start, while the machine is as others left it."""
        self.environment = environment(self.device)

    def say(self, paragraph: str) -> None:
        """Add a paragraph or table, and print it."""
        self.paragraphs.append(paragraph)
        print(paragraph + "\n", flush=True)

    def markdown(self) -> str:
        """The section for docs/benchmarks.md."""
        source = "; ".join(f"{key}: {value}" for key, value in self.environment.items() if key != "command")
        head = f"## {self.title}\n\n`{self.environment['command']}`<br>\n{source}."
        return "\n\n".join([head, *self.paragraphs]) + "\n"

    def write(self, folder: Path) -> None:
        """Write NAME.json and NAME.md into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"title": self.title, "environment": self.environment, "figures": self.figures}
        (folder / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n")
        (folder / f"{self.name}.md").write_text(self.markdown())
