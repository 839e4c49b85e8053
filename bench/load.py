"""Drives a real server with ghz, a load generator that knows nothing of us but the protocol.

`python -m bench.load --ghz out/bin/ghz --out out/load`: starts a server on this machine, with the built-in decoder on
the CPU and frames small enough that decoding is cheap, and runs every scenario over reflection, then the same scenarios
over the shipped protoset against a server without reflection. A scenario passes by its status distribution.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench import ROOT
from bench.harness import Results, table
from bench.processes import MIB, Server, anonymous_bytes
from bench.scenarios import LATENTS, SCENARIOS, Scenario, lateness_ms, write_latents

_RUN_TIMEOUT_S: Final = 120.0
_MOST_GROWTH: Final = 1.10
_MAX_SESSIONS: Final = 8
_SERVER: Final = ("--device", "cpu", "--allow-synthetic", "--max-sessions", str(_MAX_SESSIONS), "--max-queued", "0")
_QUIET_S: Final = 1.0


def run(ghz: Path, scenario: Scenario, target: str, source: tuple[str, ...], report: Path) -> None:
    """Run one scenario; `report` is .json or .html.

    Raises:
        RuntimeError: ghz itself failed.
    """
    asked = (str(report.parent / LATENTS) if part == LATENTS else part for part in scenario.options)
    options = ("--insecure", *source, *asked, "--count-errors", "-O", report.suffix[1:], "-o", str(report))
    finished = subprocess.run(
        [str(ghz), *options, target], cwd=ROOT, timeout=_RUN_TIMEOUT_S, capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise RuntimeError(f"ghz failed in {scenario.name!r}: {finished.stderr.strip()[-500:]}")


def judge(scenario: Scenario, found: dict[str, Any]) -> list[str]:
    """What is wrong with a scenario's statuses; nothing when it passed."""
    statuses: dict[str, int] = found["statusCodeDistribution"]
    wrong = [f"{count} {status}" for status, count in statuses.items() if status not in scenario.allowed]
    missing = [f"no {status}" for status in scenario.needed if not statuses.get(status)]
    if found["count"] < scenario.least:
        missing.append(f"{found['count']} calls: at least {scenario.least} were to be made")
    return wrong + missing


def campaign(ghz: Path, out: Path, module: str, *, reflection: bool) -> tuple[list[list[object]], int, bool]:
    """All scenarios against one server.

    Returns:
        Rows for people, the number of calls, and whether all is well.
    """
    name = "reflection" if reflection else "protoset"
    source = () if reflection else ("--protoset", "bench/frames.protoset")
    options = (*_SERVER, "--reflection") if reflection else _SERVER
    rows: list[list[object]] = []
    total, good = 0, True
    with Server(*options, module=module) as server:
        # The allocator keeps its high-water mark by design, so it is reached first; ghz writes one report a run.
        for scenario in SCENARIOS:
            run(ghz, scenario, server.target, source, out / f"{name}-{scenario.name}.html")
        time.sleep(_QUIET_S)
        before = anonymous_bytes(server.pid)
        for scenario in SCENARIOS:
            report = out / f"{name}-{scenario.name}.json"
            run(ghz, scenario, server.target, source, report)
            found = json.loads(report.read_text())
            wrong = judge(scenario, found)
            good &= not wrong
            total += found["count"]
            rows.append([name, scenario.name, *_figures(scenario, found), "; ".join(wrong) or "pass"])
            print(*rows[-1], sep="  ", flush=True)
        time.sleep(_QUIET_S)
        after = anonymous_bytes(server.pid)
    within = after <= before * _MOST_GROWTH
    memory = f"{before / MIB:.1f} -> {after / MIB:.1f} MiB"
    rows.append([name, "server's memory", "", "", "", memory, "pass" if within else "grew by more than 10 %"])
    return rows, total, good and within


def _figures(scenario: Scenario, found: dict[str, Any]) -> list[object]:
    latencies = {each["percentage"]: each["latency"] / 1e6 for each in found.get("latencyDistribution") or []}
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(found["statusCodeDistribution"].items()))
    p99_ms = latencies.get(99, 0.0)
    if scenario.paced is not None:
        count, interval_ms = scenario.paced
        statuses += f"; p99 late by {lateness_ms(p99_ms, num_messages=count, interval_ms=interval_ms):.0f} ms"
    return [f"{found['rps']:.1f}", f"{latencies.get(50, 0):.1f}", f"{p99_ms:.1f}", statuses]


def main() -> int:
    """Run both campaigns; exit code 1 when a scenario or the server's memory failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ghz", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/load"))
    parser.add_argument("--results", type=Path, default=Path("out/bench"), help="for bench.report")
    parser.add_argument("--server", default="framehaul_server", help="module that runs the server")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    write_latents(given.out / LATENTS)
    results = Results(name="load", title="Load")
    rows: list[list[object]] = []
    total, good = 0, True
    for reflection in (True, False):
        more, count, well = campaign(given.ghz.resolve(), given.out.resolve(), given.server, reflection=reflection)
        rows += more
        total += count
        good &= well
    results.figures = {"calls": total, "passed": good, "rows": rows}
    results.say(table(["schema by", "scenario", "calls/s", "p50, ms", "p99, ms", "statuses", ""], rows))
    results.say(f"{total} calls besides the warm-up: {'all as expected' if good else 'FAILED'}.")
    results.write(given.results)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
