"""What it costs to be looked at: a stream with nobody there, with metrics scraped and the page open, and with a trace.

`python -m bench.watched [--device cpu] [--seconds 4] [--rounds 6] [--out DIR]`. One server; streams one after the
other in turns. A scrape each second is fifteen times what Prometheus does by default. On the CPU the decoder is
`bench-free`, which gives grey frames for next to nothing; on a GPU it is `tiny`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bench.budget import gpu_name
from bench.harness import Results, run_rounds, table
from bench.plugin import FREE_SPEC, PLUGIN
from bench.processes import Peer, Server, cpu_seconds
from framehaul_client.client import FrameClient
from framehaul_pipeline.models.model import TINY_SPEC

CASES: Final = {"alone": "alone", "watched": "scraped each second, the page open", "traced": "traced"}
_HEIGHT, _WIDTH = 480, 832
_SCRAPE_S: Final = 1.0


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


@contextlib.contextmanager
def _watching(address: str) -> Iterator[None]:
    """Scrape the metrics, and read the page's events as they come."""
    stop = threading.Event()
    events = urllib.request.urlopen(f"http://{address}/events?previews", timeout=10)

    def scrape() -> None:
        while not stop.wait(_SCRAPE_S):
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                answer.read()

    def read() -> None:
        while not stop.is_set() and events.readline():
            pass

    threads = [threading.Thread(target=each) for each in (scrape, read)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        events.close()


@contextlib.contextmanager
def _tracing(target: str, seconds: float) -> Iterator[None]:
    """Read a trace of so many seconds; it has begun by then."""
    begun = threading.Event()

    async def read() -> None:
        async with FrameClient(target) as client, contextlib.aclosing(client.trace(seconds)) as responses:
            async for _ in responses:
                begun.set()

    thread = threading.Thread(target=lambda: asyncio.run(read()))
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        thread.join()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each stream")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--toy", action="store_true", help="a few latents, to try the program")
    given = parser.parse_args()
    results = Results(name="watched", title="Being looked at", device=gpu_name(given.device))
    address, model = _free_address(), (FREE_SPEC if given.device == "cpu" else TINY_SPEC).name
    warm_up = () if given.device == "cpu" else ("--warm-up", f"{_WIDTH}x{_HEIGHT}")
    options = ("--device", given.device, *PLUGIN, "--model", model, "--metrics", address, *warm_up)
    with Server(*options) as server, Peer("bench.stream_client") as client:
        client.receive()
        request: dict[str, Any] = {"target": server.target, "height": _HEIGHT, "width": _WIDTH, "sink": "discard"}
        length = {"latents": 12} if given.toy else {"seconds": given.seconds}
        client.ask(request | length)
        looking: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
            "alone": contextlib.nullcontext,
            "watched": lambda: _watching(address),
            "traced": lambda: _tracing(server.target, given.seconds),
        }

        def measure(case: str) -> dict[str, float]:
            with looking[case]():
                spent_s = cpu_seconds(server.pid)
                session = client.ask(request | length)["sessions"][0]
                spent_s = cpu_seconds(server.pid) - spent_s
            messages = session["messages"][len(session["messages"]) // 10 :]
            took_s = (messages[-1][0] - messages[0][0]) / 1e9
            num_frames = sum(count for _, _, count in messages[1:])
            return {"frames_per_s": num_frames / took_s, "server_us": spent_s / session["num_frames"] * 1e6}

        rates = run_rounds(list(CASES), given.rounds, measure)
    results.figures = {"watched": rates, "model": model, "rounds": given.rounds}
    results.say(
        f"`{model}`, {_HEIGHT}x{_WIDTH} yuv420p, frames thrown away at the client, streams of {given.seconds:g} s in "
        f"turns, medians of {given.rounds} rounds. The server's process, in processor time a frame:"
    )
    alone = rates["alone"]["frames_per_s"]
    rows = (
        [
            CASES[case],
            each["frames_per_s"],
            f"{each['spread']:.2f}x",
            f"{each['frames_per_s'] / alone:.3f}",
            each["server_us"],
        ]
        for case, each in rates.items()
    )
    results.say(table(["", "frames/s", "±", "of alone", "server, µs"], rows))
    results.write(given.out)


if __name__ == "__main__":
    main()
