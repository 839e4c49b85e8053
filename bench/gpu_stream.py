"""One stream through the real server and client processes: rate, first frame, how busy the GPU is, latency, and limits.

Used by `bench.gpu`; the client is `bench.stream_client`, the client library in a process of its own.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bench.control import VARIABLE, Control
from bench.gaps import gaps_table
from bench.gpu_tables import stream_table
from bench.harness import Results, percentile
from bench.plugin import FREE_SPEC, PLUGIN
from bench.processes import Peer, Server, cpu_seconds, hottest, python_environment, thread_seconds
from bench.utilization import Utilization
from framehaul_pipeline.models.model import TINY_SPEC

PROFILE_S: Final = 2.0
_PACED_FPS: Final = 24
_PACED_S: Final = 5.0
_WARM_UP_S: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of a run."""

    device: str
    sizes: tuple[tuple[int, int], ...]
    seconds: float
    remaining_s: Callable[[], float]


class StreamBench:
    """One server, one client process, many runs."""

    def __init__(self, server: Server, client: Peer, control: Control) -> None:
        """Use running processes."""
        self._server, self._client, self._control = server, client, control

    def warm_up(self, height: int, width: int) -> float:
        """Let libraries choose their algorithms for every length of chunk.

        Returns:
            Milliseconds to the very first frame, which waited for that.
        """
        self._request(height, width, "discard", latents=1)
        cold = self._client.receive()["sessions"][0]
        for latents in (2, 3, 4, 5, 3, 4):
            self._request(height, width, "discard", latents=latents)
            self._client.receive()
        self._request(height, width, "discard", seconds=_WARM_UP_S)
        self._client.receive()
        return float(cold["messages"][0][0] - cold["started_ns"]) / 1e6

    def run(self, height: int, width: int, sink: str, seconds: float) -> dict[str, Any]:
        """Stream for `seconds` at full speed, then for `PROFILE_S` more under the profiler."""
        self._control.ask("copied")
        pids = {"server": self._server.pid, "worker": self._server.worker_pid, "client": self._client.pid}
        self._request(height, width, sink, seconds=seconds + PROFILE_S + 1.0)
        begun_s, before = time.monotonic(), {name: thread_seconds(pid) for name, pid in pids.items()}
        cpu = {name: cpu_seconds(pid) for name, pid in pids.items()}
        with Utilization() as utilization:
            time.sleep(seconds)
        elapsed_s, end_ns = time.monotonic() - begun_s, time.monotonic_ns()
        figures: dict[str, Any] = {
            f"{name}_cpu": (cpu_seconds(pid) - cpu[name]) / elapsed_s for name, pid in pids.items()
        }
        figures |= {
            f"{name}_hottest_thread": hottest(before[name], thread_seconds(pid), elapsed_s)
            for name, pid in pids.items()
        }
        started = self._control.ask("start")
        time.sleep(PROFILE_S)
        profile = started if "error" in started else self._control.ask("stop")
        session = self._client.receive()["sessions"][0]
        figures |= _rates(session, end_ns) | self._latency(session, end_ns)
        figures |= {"profile": profile, "utilization": utilization.median()}
        figures["wait_encoder_share"] = session["wait_encoder_s"] / (seconds + PROFILE_S + 1.0)
        figures["encode_share"] = session["encode_s"] / (seconds + PROFILE_S + 1.0)
        return figures

    def paced(self, height: int, width: int, seconds: float) -> dict[str, Any]:
        """Latents at the pace of 24 frames a second: hand-over without anything queued."""
        self._control.ask("copied")
        self._request(height, width, "discard", seconds=seconds, fps=_PACED_FPS)
        session = self._client.receive()["sessions"][0]
        return self._latency(session, session["ended_ns"])

    def _request(self, height: int, width: int, sink: str, **more: Any) -> None:
        self._client.send({"target": self._server.target, "height": height, "width": width, "sink": sink, **more})

    def _latency(self, session: dict[str, Any], end_ns: int) -> dict[str, float]:
        """From the worker seeing a chunk's copy done to the client library handing over a message with its frames."""
        copied = sorted(self._control.ask("copied").get("copied", []))
        firsts = [first for first, _, _ in copied]
        delays_ms = []
        for received_ns, first_frame, _ in _steady(session, end_ns):
            at = bisect.bisect_right(firsts, first_frame) - 1
            if at >= 0 and first_frame < firsts[at] + copied[at][1]:
                delays_ms.append((received_ns - copied[at][2]) / 1e6)
        return {"to_client_p50_ms": percentile(delays_ms, 50), "to_client_p99_ms": percentile(delays_ms, 99)}


def _steady(session: dict[str, Any], end_ns: int) -> list[list[int]]:
    """Messages from a tenth of the run on: the first ones fill buffers."""
    start_ns = session["started_ns"] + (end_ns - session["started_ns"]) // 10
    return [message for message in session["messages"] if start_ns <= message[0] <= end_ns]


def _rates(session: dict[str, Any], end_ns: int) -> dict[str, float]:
    steady = _steady(session, end_ns)
    if len(steady) < 2:
        return {"frames_per_s": float("nan"), "first_frame_ms": float("nan"), "gb_per_s": float("nan")}
    span_s = (steady[-1][0] - steady[0][0]) / 1e9
    num_frames = sum(count for _, _, count in steady[1:])
    frame_bytes = session["frame_bytes"] / session["num_frames"]
    return {
        "frames_per_s": num_frames / span_s,
        "first_frame_ms": (session["messages"][0][0] - session["started_ns"]) / 1e6,
        "gb_per_s": num_frames * frame_bytes / span_s / 1e9,
    }


def run_streams(plan: Plan, results: Results) -> None:
    """Measure every size with both sinks; add a table to `results`."""
    found: dict[str, dict[str, Any]] = {}
    with (
        Control() as control,
        Server(
            "--device",
            plan.device,
            "--warm-up",
            ",".join(f"{width}x{height}" for height, width in plan.sizes),
            *PLUGIN,
            *("--model", TINY_SPEC.name, "--model", FREE_SPEC.name),
            env=python_environment(**{VARIABLE: control.path}),
        ) as server,
        Peer("bench.stream_client") as client,
    ):
        client.receive()
        results.figures["device"] = server.device
        bench = StreamBench(server, client, control)
        control.ask("start")
        cold_ms = {f"{height}x{width}": bench.warm_up(height, width) for height, width in plan.sizes}
        control.ask("stop")
        for height, width in plan.sizes:
            size = f"{height}x{width}"
            found[f"{size}, 24 frames/s"] = bench.paced(height, width, min(_PACED_S, plan.seconds))
            for sink in ("discard", "x264"):
                if plan.remaining_s() > plan.seconds + PROFILE_S + 1.0:
                    found[f"{size}, {sink}"] = bench.run(height, width, sink, plan.seconds)
    results.figures |= {"stream": found, "cold_first_frame_ms": cold_ms}
    results.say(stream_table(found))
    results.say("Where no kernel ran, in the 2 s that were profiled:")
    results.say(
        gaps_table({name: each["profile"] for name, each in found.items() if "span_s" in each.get("profile", {})})
    )
    results.say(
        "First frame of the first session of a size, warmed up by `--warm-up`: "
        + ", ".join(f"{size} {ms:.0f} ms" for size, ms in cold_ms.items())
        + ". Threads' shares of a core (server, worker, client), and whole processes: see the JSON file."
    )
