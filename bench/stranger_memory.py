"""A stranger's memory: health checks of 60 MiB whose last byte never comes, and what the server's process then holds.

`python -m bench.stranger_memory [--before FILE] [--out DIR]`: on 40 connections, and 25 on one. `--before` puts the
curves of an earlier run, of another version, beside these.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
from tests.support.http2 import Http2

from bench.harness import Results, table
from bench.processes import MIB, Server

CASES: Final = {"40 connections": (40, 1), "one connection, 25 calls": (1, 25)}
_METHOD: Final = "/grpc.health.v1.Health/Check"
_REQUEST_BYTES: Final = 60 * MIB
_ATTACK_S: Final = 12.0
_AFTER_S: Final = 15.0
_SAMPLE_S: Final = 0.25
_PAUSE_S: Final = 0.01

Curve = list[tuple[float, float]]
"""Seconds since the attack began, and MB."""


@contextmanager
def _watching(pid: int) -> Iterator[Curve]:
    process, ended, begin_s = psutil.Process(pid), threading.Event(), time.monotonic()
    curve: Curve = []

    def look() -> None:
        curve.append((round(time.monotonic() - begin_s, 2), round(process.memory_info().rss / 1e6, 1)))

    def watch() -> None:
        while not ended.wait(_SAMPLE_S):
            look()

    look()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield curve
    finally:
        ended.set()
        thread.join()


def measure(num_connections: int, num_calls: int) -> Curve:
    """Attack a fresh server for 12 s, leave, and look on for 15 s more."""
    with Server("--device", "cpu") as server, _watching(server.pid) as curve:
        with ExitStack() as stack:
            strangers = [stack.enter_context(Http2(server.target)) for _ in range(num_connections)]
            for stranger in strangers:
                for number in range(num_calls):
                    stranger.call(_METHOD, 1 + 2 * number)
                    stranger.announce(_REQUEST_BYTES, 1 + 2 * number)
            end_s = time.monotonic() + _ATTACK_S
            while time.monotonic() < end_s:
                if not sum(stranger.push() for stranger in strangers):
                    time.sleep(_PAUSE_S)
        time.sleep(_AFTER_S)
    return curve


def _row(version: str, case: str, curve: Curve) -> list[object]:
    return [version, case, curve[0][1], max(memory_mb for _, memory_mb in curve), curve[-1][1]]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="JSON of an earlier run")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    results = Results(name="stranger-memory", title="A stranger's memory")
    curves: dict[str, Any] = {case: {"after": measure(*numbers)} for case, numbers in CASES.items()}
    if given.before is not None:
        for case, found in json.loads(given.before.read_text())["figures"]["seconds_mb"].items():
            curves[case]["before"] = found["after"]
    results.figures = {"seconds_mb": curves}
    results.say(
        f"`Health/Check` requests of {_REQUEST_BYTES // MIB} MiB, without a token, whose last byte is withheld for "
        f"{_ATTACK_S:g} s; then the clients leave, and {_AFTER_S:g} s pass. Resident memory of the server's process."
    )
    rows = [_row(version, case, curves[case][version]) for case in curves for version in sorted(curves[case])[::-1]]
    results.say(table(["", "requests on", "MB at the start", "most", "at the end"], rows))
    results.write(given.out)


if __name__ == "__main__":
    main()
