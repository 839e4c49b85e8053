"""Many sessions through the real server, at a fixed total of work; and what a stalled session costs in memory.

`python -m bench.sessions [--rounds 5] [--latents 2048] [--out DIR]`. The decoder is `bench-free`: grey frames for next
to nothing, 128x128 rgb24: so scheduling, hand-over and transport are measured, and not convolutions on a CPU.
"""

from __future__ import annotations

import argparse
import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import grpc.aio

from bench.harness import Results, percentile, run_rounds, table
from bench.plugin import FREE_SPEC, PLUGIN
from bench.processes import MIB, Peer, Server, anonymous_bytes
from framehaul.v1 import frames_pb2 as pb
from framehaul.v1 import frames_pb2_grpc as stubs

COUNTS: Final = (1, 4, 16, 64)
STALLED: Final = (1, 8, 32)
_SIZE: Final = 128
_WINDOW_MIB: Final = 4
_STALL_LATENTS: Final = 1024
_SETTLED_CHECKS: Final = 3
_CHECK_S: Final = 0.3


def measure(server: Server, client: Peer, sessions: int, total_latents: int) -> dict[str, float]:
    """Stream `total_latents` in equal parts through `sessions` sessions at once, all from one client process."""
    answer = client.ask(
        {
            "target": server.target,
            "model": FREE_SPEC.name,
            "height": _SIZE,
            "width": _SIZE,
            "format": "rgb24",
            "sink": "discard",
            "sessions": sessions,
            "latents": total_latents // sessions,
        }
    )
    runs: list[dict[str, Any]] = answer["sessions"]
    started_ns = min(run["started_ns"] for run in runs)
    wall_s = (max(run["ended_ns"] for run in runs) - started_ns) / 1e9
    gaps_ms = [(later[0] - earlier[0]) / 1e6 for run in runs for earlier, later in pairwise(run["messages"])]
    firsts_ms = [(run["messages"][0][0] - run["started_ns"]) / 1e6 for run in runs]
    num_frames = sum(run["num_frames"] for run in runs)
    return {
        "frames_per_s": num_frames / wall_s,
        "gap_p99_ms": percentile(gaps_ms, 99),
        "first_frame_p50_ms": percentile(firsts_ms, 50),
        "first_frame_max_ms": max(firsts_ms),
        "server_mib": anonymous_bytes(server.pid) / MIB,
        "worker_mib": anonymous_bytes(server.worker_pid) / MIB,
        "client_mib": anonymous_bytes(client.pid) / MIB,
    }


async def stall(server: Server, count: int, mode: pb.Mode.ValueType) -> dict[str, float]:
    """Open `count` sessions, read one message with frames of each and no more; what the server then holds.

    In EXPLICIT mode the first window is the server's choice and nothing is acknowledged.
    """
    before = anonymous_bytes(server.pid)
    request = pb.StreamRequest(
        open=pb.Open(model=FREE_SPEC.name, mode=mode),
        synthetic=pb.Synthetic(num_latents=_STALL_LATENTS, height=_SIZE, width=_SIZE, seed=1),
    )
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub: Any = stubs.FrameServiceStub(channel)
        calls = [stub.Stream() for _ in range(count)]
        for call in calls:
            await call.write(request)
        for call in calls:
            while not (await call.read()).HasField("frames"):
                pass
        held = await _settled(server.pid)
        for call in calls:
            call.cancel()
    return {"mib_each": (held - before) / MIB / count, "held_mib": (held - before) / MIB}


async def _settled(pid: int) -> int:
    """Memory once it has stopped growing."""
    held, unchanged = anonymous_bytes(pid), 0
    while unchanged < _SETTLED_CHECKS:
        await asyncio.sleep(_CHECK_S)
        now = anonymous_bytes(pid)
        unchanged = unchanged + 1 if now - held < MIB / 4 else 0
        held = max(held, now)
    return held


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latents", type=int, default=2048, help="of all sessions of a run together")
    parser.add_argument("--stalled", type=int, nargs="+", default=STALLED, help="numbers of stalled sessions")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    results = Results(name="sessions", title="Sessions")
    options = ("--device", "cpu", *PLUGIN, "--model", FREE_SPEC.name, "--allow-synthetic")
    with Server(*options) as server, Peer("bench.stream_client") as client:
        client.receive()
        measure(server, client, 4, given.latents // 4)  # pages are faulted in
        found = run_rounds(COUNTS, given.rounds, lambda count: measure(server, client, count, given.latents))
    stalled = [_stalled(count, mode, options) for mode in (pb.MODE_AUTO, pb.MODE_EXPLICIT) for count in given.stalled]
    results.figures = {"sessions": found, "stalled": stalled}
    results.say(
        f"Always {given.latents} latents, {given.latents * 4} frames of {_SIZE}x{_SIZE} rgb24, shared by all sessions "
        f"of a run; medians of {given.rounds} rounds, order rotated. Decoder `{FREE_SPEC.name}` (grey frames for next "
        "to nothing), real server, worker and client library, one process each. The scheduler lets earlier sessions "
        "finish first, so with many of them the last one's first frame waits for the others' clips, while the gaps "
        "within a session stay short. Memory is anonymous memory in RAM (RssAnon) after the run."
    )
    heads = [
        "sessions",
        "frames/s",
        "±",
        "gap p99, ms",
        "first frame p50, ms",
        "last, ms",
        "server, MiB",
        "worker",
        "client",
    ]
    columns = ("gap_p99_ms", "first_frame_p50_ms", "first_frame_max_ms", "server_mib", "worker_mib", "client_mib")
    results.say(
        table(
            heads,
            (
                [count, each["frames_per_s"], f"{each['spread']:.2f}x", *(each[name] for name in columns)]
                for count, each in found.items()
            ),
        )
    )
    results.say(
        f"Stalled sessions: a stock client reads one message and stops. Server with `--session-window-mib "
        f"{_WINDOW_MIB}` (the default is 64), a fresh one each time, growth of its anonymous memory:"
    )
    results.say(
        table(
            ["mode", "stalled sessions", "server grew by, MiB", "each, MiB"],
            ([each["mode"], each["count"], each["held_mib"], each["mib_each"]] for each in stalled),
        )
    )
    results.write(given.out)


def _stalled(count: int, mode: pb.Mode.ValueType, options: tuple[str, ...]) -> dict[str, Any]:
    with Server(*options, "--session-window-mib", str(_WINDOW_MIB)) as server:
        held = asyncio.run(stall(server, count, mode))
    return {"mode": pb.Mode.Name(mode).removeprefix("MODE_"), "count": count, **held}


if __name__ == "__main__":
    main()
