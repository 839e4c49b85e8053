"""All GPU measurements in one command: the stream, and the baseline of the field beside Framehaul.

`python -m bench.gpu [--device cuda] [--seconds 30] [--budget 330] [--toy] OUT` writes OUT/gpu.json, OUT/gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil

from bench.control import VARIABLE, Control
from bench.gpu_stream import Plan, run_streams
from bench.harness import Results, table
from bench.processes import Peer, Server, python_environment
from bench.specs import STAND_IN_SPEC
from framehaul_pipeline.models import TINY_SPEC

_CASE_RESERVE_S: Final = 15.0
_GRACE_S: Final = 15.0
MODES: Final = {"serial": "one process, serial", "overlapped": "one process, overlapped", "framehaul": "Framehaul"}


class Contest:
    """The same clips through each of the three, with one decoder."""

    def __init__(self, device: str, decoder: str, size: tuple[int, int], stack: contextlib.ExitStack) -> None:
        """Start the baseline's process, the server and as many clients as sessions at most."""
        self._size, self._decoder = size, decoder
        self._baseline = stack.enter_context(Peer("bench.gpu_baseline", device))
        self._control = stack.enter_context(Control())
        env = python_environment(**{VARIABLE: self._control.path})
        options = ("--device", device, "--model", decoder)
        self._server = stack.enter_context(Server(*options, module="bench.server", env=env))
        self._clients = [stack.enter_context(Peer("bench.stream_client")) for _ in range(8)]
        for client in self._clients:
            client.receive()

    def run(self, mode: str, sessions: int, latents: int, sink: str) -> dict[str, Any]:
        """Run `sessions` clips of `latents` at once."""
        height, width = self._size
        request = {"height": height, "width": width, "latents": latents, "sink": sink}
        if mode == "framehaul":
            return self._framehaul(request | {"target": self._server.target, "model": self._decoder}, sessions)
        return self._baseline.ask(request | {"mode": mode, "decoder": self._decoder, "sessions": sessions, "chunk": 4})

    def _framehaul(self, request: dict[str, Any], sessions: int) -> dict[str, Any]:
        clients = self._clients[:sessions]
        started = self._control.ask("start")
        begun_ns = time.monotonic_ns()
        for client in clients:
            client.send(request)
        runs = [client.receive()["sessions"][0] for client in clients]
        ended_ns = max(run["ended_ns"] for run in runs)
        profile = started if "error" in started else self._control.ask("stop")
        return {
            "wall_s": (ended_ns - begun_ns) / 1e9,
            "sessions_s": [(run["ended_ns"] - begun_ns) / 1e9 for run in runs],
            "first_frames_s": [(run["messages"][0][0] - begun_ns) / 1e9 for run in runs],
            "num_frames": sum(run["num_frames"] for run in runs),
            "profile": profile,
        }


def run_contest(given: argparse.Namespace, results: Results, remaining_s: Callable[[], float]) -> None:
    """Measure both decoders with 1, 4 and 8 sessions; add a table for each."""
    size = (64, 64) if given.toy else (480, 832)
    short, long = (4, 6) if given.toy else (given.slow_latents, given.fast_latents)
    plans = [
        (TINY_SPEC.name, long, ("discard", "x264")),
        (STAND_IN_SPEC.name, short, ("x264",)),
    ]
    for decoder, latents, sinks in plans:
        found: dict[str, dict[str, Any]] = {}
        with contextlib.ExitStack() as stack:
            contest = Contest(given.device, decoder, size, stack)
            for mode in MODES:
                for few in (2, 3, 4, 9):  # libraries choose their algorithms for every length of chunk
                    contest.run(mode, 1, few, "discard")
            for sink in sinks:
                for sessions in (1, 4, 8):
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
    parser.add_argument("--budget", type=float, default=330.0, help="seconds for all; what doesn't fit is left out")
    parser.add_argument("--fast-latents", type=int, default=81, help="a session's in the contest with `tiny`")
    parser.add_argument("--slow-latents", type=int, default=13, help="likewise with the stand-in")
    parser.add_argument("--parts", nargs="+", default=("streams", "contest"), choices=("streams", "contest"))
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to try the program on a CPU")
    given = parser.parse_args()
    if given.toy:
        os.environ["FRAMEHAUL_BENCH_CONVOLUTIONS"] = "2"
    started_s = time.monotonic()

    def remaining_s() -> float:
        return float(given.budget) - (time.monotonic() - started_s)

    results = Results(name="gpu", title="GPU", device=_gpu_name(given.device))
    _watch(results, given.out, given.budget + _GRACE_S)
    sizes = ((64, 64), (64, 96)) if given.toy else ((480, 832), (720, 1280))
    plan = Plan(device=given.device, sizes=sizes, seconds=given.seconds, remaining_s=remaining_s)
    parts: list[tuple[str, Callable[[], None]]] = [
        ("streams", lambda: run_streams(plan, results)),
        ("contest", lambda: run_contest(given, results, remaining_s)),
    ]
    for name, part in parts:
        if name not in given.parts:
            continue
        try:
            part()
        except Exception:
            results.figures[f"{name} error"] = traceback.format_exc()
            results.say(f"{name}: failed\n\n```\n{traceback.format_exc()}```")
        results.write(given.out)
    results.figures["elapsed_s"] = time.monotonic() - started_s
    results.write(given.out)
    print(results.markdown())


def _gpu_name(device: str) -> str | None:
    if device == "cpu":
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "a CUDA device"


def _watch(results: Results, out: Path, budget_s: float) -> None:
    """End everything when the budget is well past, so that a part that hangs doesn't cost the others their figures."""

    def stop() -> None:
        results.figures["error"] = f"stopped after {budget_s:g} s"
        results.write(out)
        print(results.markdown(), flush=True)
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(3)

    timer = threading.Timer(budget_s, stop)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    main()
