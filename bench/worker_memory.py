"""The CPU worker's own memory over sessions of mixed sizes, some at once: does it follow what is open, and come back?

`python -m bench.worker_memory [--sessions 300] [--label NAME] [--beside FILE] [--out DIR]`; the label names the curve,
and `FILE` has those of other versions, to stand beside it. Sizes and lengths are chosen from a fixed seed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.harness import Results, table
from bench.processes import Server, anonymous_bytes, cpu_seconds
from framehaul_client import FrameClient

SIZES: Final = {(64, 64): 120, (128, 128): 100, (256, 256): 50, (448, 256): 25, (640, 640): 5}
"""Widths and heights of frames, and how often of 300 each comes."""
AT_ONCE: Final = 4
_MIB: Final = 1 << 20
_SEED: Final = 1
_SETTLE_S: Final = 2.0


async def _run(server: Server, num_sessions: int) -> dict[str, Any]:
    choose = random.Random(_SEED)
    work = iter(choose.choices(tuple(SIZES), weights=tuple(SIZES.values()), k=num_sessions))
    start_cpu_s = cpu_seconds(server.worker_pid)
    start_mib = anonymous_bytes(server.worker_pid) / _MIB
    curve: list[tuple[int, float]] = []
    num_frames = 0

    async def client() -> None:
        nonlocal num_frames
        for width, height in work:
            shape = (choose.randint(1, 2), 16, height // 8, width // 8)
            latents = np.random.default_rng(len(curve)).standard_normal(shape, np.float32)
            async with FrameClient(server.target) as frames, frames.session(latents) as session:
                async for _ in session:
                    num_frames += 1
            curve.append((len(curve) + 1, anonymous_bytes(server.worker_pid) / _MIB))

    started_s = time.monotonic()
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    seconds = time.monotonic() - started_s
    await asyncio.sleep(_SETTLE_S)
    return {
        "start_mib": start_mib,
        "most_mib": max(mib for _, mib in curve),
        "idle_mib": anonymous_bytes(server.worker_pid) / _MIB,
        "frames": num_frames,
        "seconds": seconds,
        "worker_cpu_s": cpu_seconds(server.worker_pid) - start_cpu_s,
        "sessions_and_mib": curve,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=300)
    parser.add_argument("--label", default="now")
    parser.add_argument("--beside", type=Path, help="JSON file of an earlier run")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    results = Results(name="worker-memory", title="The CPU worker's memory")
    with Server("--device", "cpu") as server:
        found = asyncio.run(_run(server, given.sessions))
    earlier = json.loads(given.beside.read_text())["figures"] if given.beside is not None else {}
    results.figures = {**earlier, given.label: found}
    results.say(
        f"{given.sessions} sessions of `tiny` of one or two latents, {AT_ONCE} at once, of sizes from 64x64 to 640x640."
    )
    columns = {"start_mib": "start, MiB", "most_mib": "most", "idle_mib": "idle at the end", "worker_cpu_s": "CPU, s"}
    rows = ([label, *(each[name] for name in columns)] for label, each in results.figures.items())
    results.say(table(["version", *columns.values()], rows))
    results.write(given.out)


if __name__ == "__main__":
    main()
