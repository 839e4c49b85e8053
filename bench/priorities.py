"""Eight sessions queued on the real server; a ninth comes late, with high priority or with none, or doesn't come.

`python -m bench.priorities [--rounds 5] [--size 128x128] [--out DIR]`. Decoder `tiny` on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from bench.harness import Results, run_rounds, table
from bench.processes import Peer, Server

QUEUED: Final = 8
_HIGH: Final = 100
_LATE_S: Final = 0.5
CASES: Final = {"none": None, "priority 0": 0, f"priority {_HIGH}": _HIGH}


def measure(server: Server, queued: Peer, late: Peer, clip: dict[str, Any], priority: int | None) -> dict[str, float]:
    """One round of one case."""
    begun_ns = time.monotonic_ns()
    queued.send(clip | {"sessions": QUEUED})
    figures: dict[str, float] = {}
    if priority is not None:
        time.sleep(_LATE_S)
        run = late.ask(clip | {"latents": clip["late_latents"], "priority": priority})["sessions"][0]
        figures["late_first_ms"] = (run["messages"][0][0] - run["started_ns"]) / 1e6
        figures["late_all_ms"] = (run["ended_ns"] - run["started_ns"]) / 1e6
    runs = queued.receive()["sessions"]
    ends_s = [(run["ended_ns"] - begun_ns) / 1e9 for run in runs]
    arrivals_ns = sorted(message[0] for run in runs for message in run["messages"])
    pause_ms = max(later - earlier for earlier, later in pairwise(arrivals_ns)) / 1e6
    return {"last_s": max(ends_s), "mean_s": statistics.mean(ends_s), "pause_ms": pause_ms, **figures}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="128x128", help="of a frame, WIDTHxHEIGHT")
    parser.add_argument("--latents", type=int, default=12, help="of each queued session")
    parser.add_argument("--late-latents", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    width, height = (int(part) for part in given.size.split("x"))
    results = Results(name="priorities", title="Priorities")
    with (
        Server("--device", given.device) as server,
        Peer("bench.stream_client") as queued,
        Peer("bench.stream_client") as late,
    ):
        queued.receive(), late.receive()
        clip = {"target": server.target, "height": height, "width": width, "sink": "discard"}
        clip |= {"latents": given.latents, "late_latents": given.late_latents}
        measure(server, queued, late, clip, 0)
        found = run_rounds(tuple(CASES), given.rounds, lambda case: measure(server, queued, late, clip, CASES[case]))
    results.figures = found
    results.say(
        f"{QUEUED} sessions of {given.latents} latents ({given.latents * 4} frames of {given.size}, `tiny`) are opened "
        f"at once; {_LATE_S:g} s later comes one of {given.late_latents} latents, "
        f"{given.late_latents / (QUEUED * given.latents):.0%} of their work. Medians of {given.rounds} rounds, "
        "order rotated. A chunk that is being decoded is finished first, and so is the one queued behind it. What the "
        "others lose is the pause: the longest time in which no frame came to any of them."
    )
    nan = float("nan")
    columns = ("late_first_ms", "late_all_ms", "pause_ms", "mean_s", "last_s")
    results.say(
        table(
            [
                "late session",
                "its first frame, ms",
                "all of it, ms",
                "the others' longest pause, ms",
                "their mean, s",
                "last, s",
            ],
            (
                [
                    case,
                    *(each.get(name, nan) for name in columns),
                ]
                for case, each in found.items()
            ),
        )
    )
    results.write(given.out)


if __name__ == "__main__":
    main()
