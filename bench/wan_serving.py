"""Wan through the real server: a finished file beside the usual loops, many clients, a long clip; `bench.gpu_wan`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

from bench.contest import MODES, Contest
from bench.gaps import gaps_table
from bench.harness import Results, run_rounds, slope, table
from bench.processes import MIB, anonymous_bytes

CLIENTS: Final = 8
_WARM_UP_LATENTS: Final = (2, 3, 4, 9)
_SAMPLE_S: Final = 0.25
_SETTLED: Final = 0.2
"""Part of a long clip after which memory must not grow: buffers are filled and caches are warm."""
HEADLINE_TITLES: Final = {
    "serial": "(a) diffusers, serial loop",
    "overlapped": "(b) diffusers, overlapped",
    "framehaul": "(c) **Framehaul**, gRPC",
}
_CLIENT_TITLES: Final = {
    "one": "one session, as many latents as all the others",
    "turns": f"{CLIENTS} clients, one at a time",
    "together": f"{CLIENTS} clients at once",
}


def warm_up(contest: Contest) -> None:
    """Let libraries choose their algorithms for every length of chunk, in all processes."""
    for mode in MODES:
        for latents in _WARM_UP_LATENTS:
            contest.run(mode, 1, latents, "mp4", profile=False)


def affordable(rounds: int, case_s: float, remaining_s: float) -> int:
    """As many of `rounds` as fit the time that is left; at least one."""
    return max(1, min(rounds, int(remaining_s / case_s)))


def run_headline(contest: Contest, latents: int, rounds: int, results: Results) -> None:
    """One clip to a finished mp4 in three ways: rounds without the profiler, then one with it for the kernels."""

    def measure(mode: str) -> dict[str, float]:
        run = contest.run(mode, 1, latents, "mp4", profile=False)
        print(f"headline, {mode}: {run['wall_s']:.3f} s", flush=True)
        return {"wall_s": run["wall_s"], "first_frame_s": run["first_frames_s"][0], "num_frames": run["num_frames"]}

    found = run_rounds(list(MODES), rounds, measure)
    profiles = {mode: contest.run(mode, 1, latents, "mp4")["profile"] for mode in MODES}
    results.figures |= {"headline": found, "profiles": profiles, "latents": latents, "rounds": rounds}
    results.say(headline_table(found, profiles))
    results.say("Where no kernel ran, from the first kernel to the last:")
    results.say(gaps_table({HEADLINE_TITLES[mode]: each for mode, each in profiles.items() if "span_s" in each}))


def headline_table(found: dict[str, dict[str, float]], profiles: dict[str, dict[str, Any]]) -> str:
    """One row a mode."""
    serial_s = found["serial"]["wall_s"]
    rows = [
        [
            HEADLINE_TITLES[mode],
            each["num_frames"],
            each["wall_s"],
            f"{each['spread']:.2f}x",
            f"{1 - each['wall_s'] / serial_s:.1%}",
            each["first_frame_s"] * 1e3,
            profiles[mode].get("error") or f"{profiles[mode]['busy']:.2%}",
        ]
        for mode, each in found.items()
    ]
    return table(["", "frames", "to the closed mp4, s", "±", "sooner by", "first frame, ms", "kernels busy"], rows)


def run_clients(contest: Contest, latents: int, rounds: int, results: Results) -> None:
    """The same clips from eight clients at once, one at a time, and as one clip; frames are thrown away."""

    def measure(case: str) -> dict[str, float]:
        if case == "turns":
            runs = [contest.run("framehaul", 1, latents, "discard", profile=False) for _ in range(CLIENTS)]
        else:
            sessions, length = (CLIENTS, latents) if case == "together" else (1, CLIENTS * latents)
            runs = [contest.run("framehaul", sessions, length, "discard", profile=False)]
        wall_s, num_frames = sum(run["wall_s"] for run in runs), sum(run["num_frames"] for run in runs)
        print(f"clients, {case}: {num_frames / wall_s:.1f} frames/s", flush=True)
        return {
            "frames_per_s": num_frames / wall_s,
            "wall_s": wall_s,
            "first_frame_s": max(first_s for run in runs for first_s in run["first_frames_s"]),
        }

    found = run_rounds(list(_CLIENT_TITLES), rounds, measure)
    results.figures |= {"clients": found, "latents": latents, "rounds": rounds}
    together = found["together"]["frames_per_s"]
    rows = [
        [
            title,
            found[case]["frames_per_s"],
            f"{found[case]['spread']:.2f}x",
            f"{together / found[case]['frames_per_s']:.3f}",
            found[case]["wall_s"],
            found[case]["first_frame_s"] * 1e3,
        ]
        for case, title in _CLIENT_TITLES.items()
    ]
    heads = ["", "frames/s", "±", f"{CLIENTS} at once, of this", "wall, s", "last session's first frame, ms"]
    results.say(table(heads, rows))


def run_long(contest: Contest, seconds: float, most_latents: int, results: Results) -> None:
    """One clip as long as the time allows, with the memory of device and processes sampled all the while."""
    trial = contest.run("framehaul", 1, 9, "discard", profile=False)
    latents = max(9, min(most_latents, int(seconds * 9 / trial["wall_s"])))
    client = contest.clients[0]
    pids = {"server": contest.server.pid, "worker": contest.server.worker_pid, "client": client.pid}
    samples: list[dict[str, float]] = []
    started_s = time.monotonic()

    def sample() -> None:
        contest.control.ask("copied")  # the benchmark's own notes in the worker don't count
        memory = {f"device, {name}": float(value) for name, value in contest.control.ask("memory").items()}
        memory |= {f"host, {name}": float(anonymous_bytes(pid)) for name, pid in pids.items()}
        samples.append({"at_s": time.monotonic() - started_s} | memory)

    client.send(contest.request(latents, "discard"))
    run = _sampled(client.receive, sample)["sessions"][0]
    wall_s = (run["ended_ns"] - run["started_ns"]) / 1e9
    results.figures |= {"samples": samples, "latents": latents, "wall_s": wall_s, "num_frames": run["num_frames"]}
    results.say(f"{latents} latents, {run['num_frames']} frames, {wall_s:.0f} s, {len(samples)} samples:")
    results.say(memory_table(samples, latents / wall_s))


def _sampled(receive: Callable[[float], dict[str, Any]], sample: Callable[[], None]) -> dict[str, Any]:
    while True:
        sample()
        try:
            return receive(_SAMPLE_S)
        except TimeoutError:
            continue


def memory_table(samples: list[dict[str, float]], latents_per_s: float) -> str:
    """How each memory grew once the clip had settled, by a straight line through the samples."""
    settled = [each for each in samples if each["at_s"] >= _SETTLED * samples[-1]["at_s"]]
    rows = []
    for name in (name for name in samples[0] if name != "at_s"):
        rise = slope([(each["at_s"], each[name]) for each in settled]) / latents_per_s * 1000 / MIB
        values = [each[name] / MIB for each in settled]
        rows.append([name, values[0], values[-1], max(values), "-" if math.isnan(rise) else f"{rise:+.2f}"])
    return table(["MiB", f"after {_SETTLED:.0%}", "at the end", "most", "growth per 1,000 latents"], rows)
