"""Servers of several devices behind one front, against one server: frames/s of all sessions, by how many clients ask.

`python -m bench.devices --devices cuda:0,cuda:1 [--size 832x480] [--seconds 6] [--model NAME=PATH]`; or `cpu,cpu`.
Each client is a process. The clients run on the same machine, so with few cores they are part of the limit: the share
of the machine that was busy stands beside the rates.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import psutil

from bench.harness import Results, run_rounds, table
from bench.processes import Peer, Server
from framehaul.formats import parse_size

CASES: Final = {
    "1 client, 1 session": (1, 1),
    "1 client, 8 sessions": (1, 8),
    "2 clients": (2, 1),
    "8 clients": (8, 1),
}
"""Client processes, and sessions of each."""
_SETTLED: Final = 0.25
"""Of the time, before it counts: buffers are full, and servers at the same load."""


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


def main() -> int:
    """Measure one server, then all of them behind a front."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", default="cuda:0,cuda:1")
    parser.add_argument("--model", default="tiny", help="as the server takes it")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    devices = given.devices.split(",")
    width, height = parse_size(given.size)
    request = {"height": height, "width": width, "sink": "discard", "seconds": given.seconds}
    options = ("--model", given.model, "--warm-up", given.size)
    kinds = {"one server": ("--device", devices[0]), f"front of {len(devices)}": ("--devices", given.devices)}
    clients = [Peer("bench.stream_client") for _ in range(max(number for number, _ in CASES.values()))]
    rates: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for client in clients:
            client.receive()
        for kind, chosen in kinds.items():
            with Server(*options, *chosen) as server:

                def once(case: str, target: str = server.target) -> dict[str, float]:
                    psutil.cpu_percent()
                    rate = measure(target, clients, request, *CASES[case])
                    return {"frames_per_s": rate, "processors_busy": psutil.cpu_percent() / 100}

                once("8 clients")  # each server has decoded once
                rates[kind] = run_rounds(tuple(CASES), given.rounds, once)
    finally:
        for client in clients:
            client.close()
    results = Results(name="devices", title="Several devices of a host", device=given.devices)
    results.figures = rates
    one, front = rates.values()
    num = len(devices)
    rows = [
        [
            case,
            one[case]["frames_per_s"],
            front[case]["frames_per_s"],
            front[case]["frames_per_s"] / one[case]["frames_per_s"] / num,
            front[case]["processors_busy"],
        ]
        for case in CASES
    ]
    results.say(
        f"`{given.model}` at {given.size}, yuv420p, on {given.devices}; medians of {given.rounds} rounds of "
        f"{given.seconds:g} s. Of {num} times one server is what the front's servers reach together."
    )
    results.say(
        table(["", "one server, frames/s", f"front of {num}, frames/s", f"of {num} times one", "processors busy"], rows)
    )
    results.write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
