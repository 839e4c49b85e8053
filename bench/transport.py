"""Transport alone: our gRPC path against the others, between two processes over loopback, no decoder.

`python -m bench.transport [--rounds 5] [--seconds 0.5] [--out DIR]`
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
from pathlib import Path
from typing import Final

from bench.harness import Results, run_rounds, table
from bench.processes import Peer

TITLES: Final = {
    "ours": "**Framehaul** (gRPC, our codec)",
    "stock": "gRPC, generated stubs, default allocator",
    "stock_tuned": "gRPC, generated stubs, tuned allocator",
    "streams": "asyncio streams",
    "aiohttp": "aiohttp, chunked",
    "websockets": "websockets",
    "zmq": "pyzmq, copy=False",
    "sockets": "blocking sockets",
    "memory": "shared memory, each page read",
    "memory_copy": "shared memory, copied out",
}
_NEEDS: Final = {"aiohttp": ("aiohttp",), "websockets": ("websockets",), "zmq": ("zmq",)}
SIZES: Final = {256 << 10: "256 KB", 1 << 20: "1 MB", 4 << 20: "4 MB", 16 << 20: "16 MB"}
_WARM_UP_BYTES: Final = 64 << 20
_MOST_BYTES: Final = 16 << 30


class Pair:
    """Both ends of one transport."""

    def __init__(self, name: str, stack: contextlib.ExitStack) -> None:
        """Start them."""
        self._server = stack.enter_context(Peer("bench.transports", name, "serve"))
        address = str(self._server.receive()["address"])
        self._client = stack.enter_context(Peer("bench.transports", name, "fetch", address))
        self._counts: dict[int, int] = {}

    def measure(self, size: int, seconds: float) -> dict[str, float]:
        """Move messages of `size` bytes for about `seconds`; the number of them is settled before the first round."""
        if size not in self._counts:
            count = max(3, _WARM_UP_BYTES // size)
            self._fetch(size, count)  # pages are faulted in, connections made
            speed = self._fetch(size, count)["gb_per_s"] * 1e9
            self._counts[size] = max(3, int(min(speed * seconds, _MOST_BYTES) / size))
        return self._fetch(size, self._counts[size])

    def _fetch(self, size: int, count: int) -> dict[str, float]:
        before_s = float(self._server.ask({})["cpu_s"])
        figures: dict[str, float] = self._client.ask({"size": size, "count": count})
        spent_s = float(self._server.ask({})["cpu_s"]) - before_s
        return {
            "gb_per_s": figures["gb_per_s"],
            "server_cpu_s_per_gb": spent_s / (figures["bytes"] / 1e9),
            "client_cpu_s_per_gb": figures["client_cpu_s_per_gb"],
        }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="about, for one figure of one round")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    results = Results(name="transport", title="Transport")
    with contextlib.ExitStack() as stack:
        pairs = _start(stack)
        names = list(pairs)
        cases = [(size, name) for size in SIZES for name in names]
        found = run_rounds(cases, given.rounds, lambda case: pairs[case[1]][case[0]].measure(case[0], given.seconds))
    results.figures = {SIZES[size]: {name: found[size, name] for name in names} for size in SIZES}
    results.say(
        f"Medians of {given.rounds} rounds, order rotated, about {given.seconds:g} s each: GB/s (CPU seconds per GB at "
        "the server / at the client). Two processes, loopback TCP (shared memory: a unix socket for the indices). "
        "Payloads come from 96 MiB of memory; the client touches each message's first and last byte. All ends but the "
        "plain stock one have the tuned allocator; that one has a process for each size, since glibc's allocator "
        "learns from the largest block it ever freed. ± is the largest over the smallest round at 4 MB."
    )
    results.say(
        table(
            ["", *SIZES.values(), "±"],
            (
                [
                    title,
                    *(_cell(found[size, name]) for size in SIZES),
                    f"{found[4 << 20, name]['spread']:.2f}x",
                ]
                for name, title in TITLES.items()
                if name in names
            ),
        )
    )
    results.say(
        table(
            ["ours over", *SIZES.values()],
            (
                [TITLES[name], *(f"{_ratio(found, size, name):.2f}" for size in SIZES)]
                for name in names
                if name != "ours"
            ),
        )
    )
    results.write(given.out)


def _start(stack: contextlib.ExitStack) -> dict[str, dict[int, Pair]]:
    """Start both ends of every transport whose packages are installed; which pair serves which size."""
    pairs: dict[str, dict[int, Pair]] = {}
    for name, title in TITLES.items():
        if all(importlib.util.find_spec(package) for package in _NEEDS.get(name, ())):
            if name == "stock":
                # The default allocator learns from the largest block it ever freed, so sizes must not share a process.
                pairs[name] = {size: Pair(name, stack) for size in SIZES}
            else:
                pairs[name] = dict.fromkeys(SIZES, Pair(name, stack))
        else:
            print(f"{title}: not installed here, left out")
    return pairs


def _cell(figures: dict[str, float]) -> str:
    cpu = f"{figures['server_cpu_s_per_gb']:.2f} / {figures['client_cpu_s_per_gb']:.2f}"
    return f"{figures['gb_per_s']:.2f} ({cpu})"


def _ratio(found: dict[tuple[int, str], dict[str, float]], size: int, name: str) -> float:
    return found[size, "ours"]["gb_per_s"] / found[size, name]["gb_per_s"]


if __name__ == "__main__":
    main()
