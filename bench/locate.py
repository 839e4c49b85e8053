"""How long `Locate` takes in a real front, with a table of 500 servers that report each second.

`python -m bench.locate [--servers 500] [--calls 3000] [--rounds 3]`: the front is a process of its own. One client asks
for one place after the other, then eight at once.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Final

import grpc
import uvloop

from bench.harness import Results, percentile, run_rounds, table
from bench.processes import Peer
from framehaul.address import Address
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import SERVICE
from framehaul_server.access.callers import as_everyone
from framehaul_server.config import ServerConfig
from framehaul_server.core.placement import Placement
from framehaul_server.front.front import Front

CASES: Final = {"1 at a time": (1, True), "8 at once": (8, True), "a health check, 1 at a time": (1, False)}
"""How many ask at a time, and whether for a place; the other call is what gRPC and the machine take."""
_STATE: Final = 138.0


def _report(epoch: int) -> pb.ServerInfo:
    return pb.ServerInfo(
        epoch=epoch,
        ready=True,
        models=[pb.ModelInfo(name="tiny", spatial_factor=8, state_bytes_per_pixel=_STATE)],
        limits=pb.Limits(max_sessions=64, max_queued=64, max_pixels=1920 * 1088),
        load=pb.Load(session_memory_bytes=80 << 30),
    )


async def _serve(num_servers: int) -> None:
    placement = Placement()
    config = ServerConfig(listen=Address(host="127.0.0.1", port=0))
    front = Front(config, placement, as_everyone, None)
    address = front.bind()
    reports = {f"gpu{index}:50051": _report(index + 1) for index in range(num_servers)}
    for target, info in reports.items():
        placement.report(target, info, time.monotonic())
    await front.start()
    print(f'{{"target": "{address}"}}', flush=True)
    while True:  # as reports come: spread over the second
        for target, info in reports.items():
            placement.report(target, info, time.monotonic())
            await asyncio.sleep(1 / num_servers)


async def _ask(target: str, num_calls: int, at_once: int, is_locate: bool) -> dict[str, float]:
    async with grpc.aio.insecure_channel(target) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"/{SERVICE}/Locate" if is_locate else "/grpc.health.v1.Health/Check"
        )
        geometry = pb.LatentGeometry(channels=16, height=60, width=104)
        request = pb.LocateRequest(model="tiny", geometry=geometry).SerializeToString() if is_locate else b""
        took_ms: list[float] = []

        async def ask_on() -> None:
            for _ in range(num_calls // at_once):
                started_s = time.perf_counter()
                await call(request)
                took_ms.append((time.perf_counter() - started_s) * 1e3)

        await call(request)
        started_s = time.perf_counter()
        await asyncio.gather(*(ask_on() for _ in range(at_once)))
        rate = len(took_ms) / (time.perf_counter() - started_s)
    return {"p50_ms": percentile(took_ms, 50), "p99_ms": percentile(took_ms, 99), "calls_per_s": rate}


def main() -> None:
    """Measure, or be the front."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=500)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(given.servers))
    results = Results(name="locate", title="Locate")
    with Peer("bench.locate", "--serve", "--servers", str(given.servers)) as front:
        target = front.receive()["target"]
        found = run_rounds(
            tuple(CASES), given.rounds, lambda case: asyncio.run(_ask(target, given.calls, *CASES[case]))
        )
    results.figures = found
    results.say(
        f"A front with {given.servers} servers, each of which reports once a second; {given.calls} calls, medians of "
        f"{given.rounds} rounds, order rotated. From the call to its answer in a client on the same machine."
    )
    results.say(
        table(
            ["", "p50, ms", "p99, ms", "calls/s"],
            ([case, each["p50_ms"], each["p99_ms"], each["calls_per_s"]] for case, each in found.items()),
        )
    )
    results.write(given.out)


if __name__ == "__main__":
    main()
