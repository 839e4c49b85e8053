"""Servers of several devices behind one front, against one server: frames/s of all sessions, by how many clients ask.

`python -m bench.devices --devices cuda:0,cuda:1 [--size 832x480] [--seconds 6] [--models tiny,wan2.1]`; or `cpu,cpu`.
Wan has random weights (`--toy`: a narrow one, for a try on a CPU). Each client is a process. The clients run on the
same machine, so with few cores they are part of the limit: the share of the machine that was busy stands beside the
rates.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from bench.harness import Results, run_rounds, table
from bench.processes import Peer, Server, make_weights
from framehaul.formats import parse_size

Rates = dict[str, dict[str, float]]
"""Medians by case."""

CASES: Final = {
    "1 client, 1 session": (1, 1),
    "1 client, 8 sessions": (1, 8),
    "2 clients": (2, 1),
    "8 clients": (8, 1),
}
"""Client processes, and sessions of each."""
_SETTLED: Final = 0.25
"""Of the time, before it counts: buffers are full, and servers at the same load."""
_QUIET_S: Final = 0.5
"""After a case, for its sessions to end."""


def measure(target: str, clients: list[Peer], request: dict[str, Any], num_clients: int, sessions: int) -> float:
    """Frames a second of all sessions, while all of them run."""
    asked = clients[:num_clients]
    for client in asked:
        client.send({"target": target, "sessions": sessions, **request})
    found = [session for client in asked for session in client.receive()["sessions"]]
    start_ns = max(session["started_ns"] for session in found)
    end_ns = min(session["messages"][-1][0] for session in found)
    start_ns += round(_SETTLED * (end_ns - start_ns))
    frames: int = sum(count for each in found for at_ns, _, count in each["messages"] if start_ns < at_ns <= end_ns)
    return float(frames / (end_ns - start_ns) * 1e9)


def rates_of(options: Sequence[str], clients: list[Peer], request: dict[str, Any], rounds: int) -> Rates:
    """Measure all cases at one server."""
    with Server(*options) as server:

        def once(case: str) -> dict[str, float]:
            time.sleep(_QUIET_S)
            psutil.cpu_percent()
            rate = measure(server.target, clients, request, *CASES[case])
            return {"frames_per_s": rate, "processors_busy": psutil.cpu_percent() / 100}

        once("8 clients")  # each server has decoded once
        return run_rounds(tuple(CASES), rounds, once)


def main() -> int:
    """Measure one server, then all of them behind a front, with each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", default="cuda:0,cuda:1")
    parser.add_argument("--models", default="tiny,wan2.1", help="tiny, wan2.1, wan2.2")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    devices = given.devices.split(",")
    width, height = parse_size(given.size)
    request = {"height": height, "width": width, "sink": "discard", "seconds": given.seconds}
    kinds = {"one server": ("--device", devices[0]), f"front of {len(devices)}": ("--devices", given.devices)}
    results = Results(name="devices", title="Several devices of a host", device=given.devices)
    results.say(
        f"{given.size}, yuv420p; medians of {given.rounds} rounds of {given.seconds:g} s. Of {len(devices)} times one "
        "server is what the front's servers reach together."
    )
    clients = [Peer("bench.stream_client") for _ in range(max(number for number, _ in CASES.values()))]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for client in clients:
            stack.callback(client.close)
            client.receive()
        rows = []
        for model in given.models.split(","):
            if model == "tiny":
                served = ("--model", model)
            else:
                make_weights(folder / model, model, toy=given.toy)
                served = ("--model", f"{model}={folder / model}")
            found = {
                kind: rates_of((*served, "--warm-up", given.size, *chosen), clients, request, given.rounds)
                for kind, chosen in kinds.items()
            }
            results.figures[model] = found
            one, front = found.values()
            rows += [
                [
                    model,
                    case,
                    one[case]["frames_per_s"],
                    front[case]["frames_per_s"],
                    front[case]["frames_per_s"] / one[case]["frames_per_s"] / len(devices),
                    front[case]["processors_busy"],
                ]
                for case in CASES
            ]
    heads = ["", "", "one server, frames/s", f"front of {len(devices)}, frames/s", f"of {len(devices)} times one"]
    results.say(table([*heads, "processors busy"], rows))
    results.write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
