"""All GPU measurements in one command: the stream, the baseline of the field beside Framehaul, and what video costs.

`python -m bench.gpu [--device cuda] [--seconds 30] [--budget 450] [--price 4] [--toy] OUT` writes OUT/gpu.json and .md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.budget import Budget, gpu_name
from bench.contest import MODES, Contest
from bench.cost import CostPlan, run_cost
from bench.gpu_stream import Plan, run_streams
from bench.harness import Results, table
from bench.plugin import STAND_IN_SPEC
from framehaul_pipeline.models.model import TINY_SPEC

PARTS: Final = ("streams", "cost", "contest")
_CASE_RESERVE_S: Final = 15.0


def run_contest(given: argparse.Namespace, results: Results, remaining_s: Callable[[], float]) -> None:
    """Measure both decoders with 1, 4 and 8 sessions at once; add a table for each."""
    size = (64, 64) if given.toy else (480, 832)
    short, long = (4, 6) if given.toy else (given.slow_latents, given.fast_latents)
    counts = (1, 2) if given.toy else (1, 4, 8)
    plans = [
        (TINY_SPEC.name, long, ("discard", "x264")),
        (STAND_IN_SPEC.name, short, ("x264",)),
    ]
    for decoder, latents, sinks in plans:
        found: dict[str, dict[str, Any]] = {}
        with contextlib.ExitStack() as stack:
            server = ("--model", decoder)
            contest = Contest(
                given.device, size, stack, baseline=decoder, model=decoder, server=server, num_clients=counts[-1]
            )
            for mode in MODES:
                for few in (2, 3, 4, 9):  # libraries choose their algorithms for every length of chunk
                    contest.run(mode, 1, few, "discard")
            for sink in sinks:
                for sessions in counts:
                    for mode in MODES:
                        if remaining_s() > _CASE_RESERVE_S:
                            found[f"{sink} {sessions} {mode}"] = contest.run(mode, sessions, latents, sink)
        results.figures[f"contest {decoder}"] = found
        results.say(
            f"Decoder `{decoder}`, {size[0]}x{size[1]}, every session {latents * 4} frames, all started at once:"
        )
        results.say(_table(found))


def _table(found: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, each in found.items():
        sink, sessions, mode = name.split(" ")
        serial = found.get(f"{sink} {sessions} serial")
        rows.append(
            [
                sink,
                sessions,
                MODES[mode],
                each["num_frames"] / each["wall_s"],
                f"{serial['wall_s'] / each['wall_s']:.2f}x" if serial else "-",
                each["profile"].get("error") or f"{each['profile']['busy']:.1%}",
                statistics.median(each["first_frames_s"]) * 1e3,
                statistics.mean(each["sessions_s"]),
                max(each["sessions_s"]),
            ]
        )
    heads = [
        "sink",
        "sessions",
        "",
        "frames/s",
        "of serial",
        "kernels busy",
        "first frame, median ms",
        "session, mean s",
        "last, s",
    ]
    return table(heads, rows)


def main() -> None:
    """Run everything that fits the budget; a part that fails leaves the others their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=30.0, help="of each stream run")
    parser.add_argument("--budget", type=float, default=450.0, help="seconds for all; what doesn't fit is left out")
    parser.add_argument("--fast-latents", type=int, default=81, help="a session's in the contest with `tiny`")
    parser.add_argument("--slow-latents", type=int, default=13, help="likewise with the stand-in")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--price", type=float, default=4.0, help="of the device, an hour")
    parser.add_argument("--cost-seconds", type=float, default=3.0, help="of a clip whose cost is measured")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to try the program on a CPU")
    given = parser.parse_args()
    if given.toy:
        os.environ["FRAMEHAUL_BENCH_CONVOLUTIONS"] = "2"
    budget = Budget(given.budget, given.out)
    results = Results(name="gpu", title="GPU", device=gpu_name(given.device))
    budget.watch()
    sizes = ((64, 64),) if given.toy else ((480, 832), (720, 1280))
    plan = Plan(device=given.device, sizes=sizes, seconds=given.seconds, remaining_s=budget.remaining_s)
    priced = CostPlan(
        device=given.device,
        sizes=sizes,
        seconds=0.3 if given.toy else given.cost_seconds,
        rounds=1 if given.toy else 3,
        price=given.price,
        toy=given.toy,
        remaining_s=budget.remaining_s,
    )
    parts: list[tuple[str, Callable[[], None]]] = [
        ("streams", lambda: run_streams(plan, results)),
        ("cost", lambda: run_cost(priced, results)),
        ("contest", lambda: run_contest(given, results, budget.remaining_s)),
    ]
    budget.run(results, [(name, part) for name, part in parts if name in given.parts])
    print(results.markdown())


if __name__ == "__main__":
    main()
