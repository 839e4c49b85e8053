"""The time in which a GPU ran no kernel, by the length of the gaps and by what stood on either side. Pure."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from bench.harness import table

Kernel = tuple[float, float, str]
"""Start and end in microseconds, and the kernel's name."""

BOUNDS_US: Final = (0, 2, 5, 20, 100, 1000, math.inf)


def short_name(name: str) -> str:
    """A kernel's name without its namespaces, types and arguments."""
    while (shorter := re.sub(r"<[^<>]*>|\([^()]*\)", "", name)) != name:
        name = shorter
    return re.split(r"::|\s", name.strip())[-1][:40] or name[:40]


def find_gaps(kernels: Sequence[Kernel]) -> dict[str, Any]:
    """Sum up the gaps between kernels, whatever stream they ran on.

    Returns:
        `classes`: for each length of gaps `from_us`, `to_us`, `count`, `sum_us`, and `between`, the kernels before and
        after those that add up to most; `largest_us`: the five longest.
    """
    found: list[tuple[float, str]] = []
    end_us, last = 0.0, ""
    for start_us, until_us, name in sorted(kernels):
        if last and start_us > end_us:
            found.append((start_us - end_us, f"{short_name(last)} -> {short_name(name)}"))
        if not last or until_us > end_us:
            end_us, last = until_us, name
    classes = []
    for from_us, to_us in pairwise(BOUNDS_US):
        here = [(length_us, between) for length_us, between in found if from_us <= length_us < to_us]
        if not here:
            continue
        sums: defaultdict[str, float] = defaultdict(float)
        for length_us, between in here:
            sums[between] += length_us
        most = max(sums, key=sums.__getitem__)
        row = {"from_us": from_us, "to_us": to_us, "count": len(here), "sum_us": sum(sums.values()), "between": most}
        classes.append(row)
    return {"classes": classes, "largest_us": sorted((length_us for length_us, _ in found), reverse=True)[:5]}


def gaps_table(profiles: dict[str, dict[str, Any]]) -> str:
    """A row for each length of gaps of each profile (`profiling.summary`)."""
    rows = []
    for name, profile in profiles.items():
        for each in profile.get("gaps", {}).get("classes", []):
            length = f"{each['from_us']:g} to {each['to_us']:g}"
            share = each["sum_us"] * 1e-6 / profile["span_s"]
            rows.append([name, length, each["count"], each["sum_us"] / 1e3, f"{share:.2%}", each["between"]])
    return table(["", "gaps of, µs", "number", "sum, ms", "of the time", "mostly between"], rows)
