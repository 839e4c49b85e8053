"""Puts figures into docs/benchmarks.md, between marks that name their program; draws the plots, keeps the raw figures.

`python -m bench.report [--results out/bench] [--docs docs]`. Sections without new figures stay as they are, and so do
headings and words outside of the marks.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.contest import MODES
from bench.plots import bars
from bench.transport import TITLES
from bench.wan_decode import CONTENDERS
from bench.wan_serving import HEADLINE_TITLES


def fill(page: str, name: str, section: str) -> str:
    """Replace what stands between the marks of `name`.

    Raises:
        ValueError: the page has no such marks.
    """
    marks = re.compile(f"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", re.DOTALL)
    if not marks.search(page):
        raise ValueError(f"the page has no marks <!-- bench:{name} --> and <!-- /bench:{name} -->")
    return marks.sub(lambda found: f"{found[1]}\n{section}\n{found[2]}", page)


def section(name: str, written: str, environment: Mapping[str, str]) -> str:
    """Turn what a program wrote (`harness.Results`) into the page's form.

    The title is left to the page, versions and load to the JSON file. Paragraphs get 120 columns.
    """
    source = f"{environment['date']}; {environment['machine']}. [Figures, load and versions](benchmarks/{name}.json)."
    _title, _source, *blocks = written.strip().split("\n\n")
    return "\n\n".join([f"`{environment['command']}`<br>\n{_wrapped(source)}", *map(_wrapped, blocks)]) + "\n"


def _wrapped(block: str) -> str:
    if "\n" in block:  # a table, or a traceback
        return block
    return textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False)


def transport_plot(figures: dict[str, Any]) -> str:
    """GB/s of all transports over TCP, at 4 MB."""
    rows = [
        (TITLES[name].replace("*", ""), each["gb_per_s"])
        for name, each in figures["4 MB"].items()
        if not name.startswith("memory")
    ]
    return bars("Messages of 4 MB over loopback TCP", rows, "GB/s", "Framehaul")


def contest_plot(figures: dict[str, Any]) -> str:
    """Frames a second of the three ways to serve the fast decoder, with x264."""
    rows = []
    for case, each in figures["contest tiny"].items():
        sink, sessions, mode = case.split(" ")
        if sink == "x264":
            rows.append((f"{sessions} sessions: {MODES[mode]}", each["num_frames"] / each["wall_s"]))
    return bars("Decoder tiny, every frame encoded with x264", rows, "frames/s", "Framehaul")


def wan_decode_plot(figures: dict[str, Any]) -> str:
    """TFLOP/s of all ways to decode the first size."""
    flop, contenders = figures["flop"][0], figures["sizes"][0]
    rows = [(CONTENDERS[kind].replace("*", ""), flop / each["seconds"] / 1e12) for kind, each in contenders.items()]
    clip = figures["error_clip"]
    return bars(f"Decoding {clip['height']}x{clip['width']}, Wan's arithmetic over time", rows, "TFLOP/s", "Framehaul")


def wan_headline_plot(figures: dict[str, Any]) -> str:
    """Seconds to the closed file."""
    rows = [(HEADLINE_TITLES[mode].replace("*", ""), each["wall_s"]) for mode, each in figures["headline"].items()]
    return bars("From the first latent to the closed mp4", rows, "s", "Framehaul")


PLOTS = {
    "transport": transport_plot,
    "gpu": contest_plot,
    "wan-decode": wan_decode_plot,
    "wan-headline": wan_headline_plot,
}


def main() -> None:
    """Fill in every section whose figures are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("out/bench"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    given = parser.parse_args()
    target = given.docs / "benchmarks.md"
    raw = given.docs / "benchmarks"
    raw.mkdir(exist_ok=True)
    page = target.read_text()
    for written in sorted(given.results.glob("*.md")):
        name = written.stem
        content = json.loads(written.with_suffix(".json").read_text())
        page = fill(page, name, section(name, written.read_text(), content["environment"]))
        shutil.copyfile(written.with_suffix(".json"), raw / f"{name}.json")
        figures = content["figures"]
        if name in PLOTS and not any(key == "error" or key.endswith(" error") for key in figures):
            images = given.docs / "images"
            images.mkdir(exist_ok=True)
            (images / f"bench-{name}.svg").write_text(PLOTS[name](figures))
        print(f"{target}: {name}")
    target.write_text(page)


if __name__ == "__main__":
    main()
