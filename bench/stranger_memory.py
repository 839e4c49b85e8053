"""A stranger's memory: requests of 60 MiB, and what the server's process then holds.

`python -m bench.stranger_memory [--before FILE] [--out DIR]`: health checks whose last byte never comes, on 40
connections, and 25 on one; and whole `Render` requests of 60 clients that read nothing. `--before` puts the curves of
an earlier run, of another version, beside these.
"""

from __future__ import annotations

import argparse
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
from tests.support.http2 import Http2

from bench.harness import Results, table
from bench.processes import MIB, Server
from framehaul.v1 import frames_pb2 as pb

CASES: Final = {"health checks, 40 connections": (40, 1), "health checks, one connection, 25 calls": (1, 25)}
RENDERS: Final = "`Render`, 60 connections, 4 sessions"
_METHOD: Final = "/grpc.health.v1.Health/Check"
_RENDER: Final = "/framehaul.v1.FrameService/Render"
_NUM_CLIENTS: Final = 60
_LATENT: Final = (16, 60, 104)
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


def render_request() -> bytes:
    """A whole request of about 60 MiB for `tiny`."""
    channels, height, width = _LATENT
    latent_bytes = 2 * math.prod(_LATENT)
    num_latents = _REQUEST_BYTES // latent_bytes
    return pb.RenderRequest(
        open=pb.Open(
            geometry=pb.LatentGeometry(channels=channels, height=height, width=width), dtype=pb.DATA_TYPE_FLOAT16
        ),
        num_latents=num_latents,
        latents=bytes(num_latents * latent_bytes),
    ).SerializeToString()


def measure_renders() -> Curve:
    """60 clients each send a whole request and read nothing, for as long as others attack for; no queue."""
    request = render_request()
    options = ("--device", "cpu", "--max-sessions", "4", "--max-queued", "0")
    with Server(*options) as server, _watching(server.pid) as curve:
        channels = [
            grpc.insecure_channel(
                server.target, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
            )
            for _ in range(_NUM_CLIENTS)
        ]
        calls: list[Any] = [channel.unary_stream(_RENDER, request_serializer=bytes)(request) for channel in channels]
        time.sleep(3 * _ATTACK_S)
        for call, channel in zip(calls, channels, strict=True):
            call.cancel()
            channel.close()
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
    curves[RENDERS] = {"after": measure_renders()}
    if given.before is not None:
        for case, found in json.loads(given.before.read_text())["figures"]["seconds_mb"].items():
            curves[case]["before"] = found["after"]
    results.figures = {"seconds_mb": curves}
    results.say(
        f"Requests of {_REQUEST_BYTES // MIB} MiB: of `Health/Check`, without a token, whose last byte is withheld for "
        f"{_ATTACK_S:g} s; of `Render`, whole, whose frames aren't read for {3 * _ATTACK_S:g} s. Then the clients "
        f"leave, and {_AFTER_S:g} s pass. Resident memory of the server's process."
    )
    rows = [_row(version, case, curves[case][version]) for case in curves for version in sorted(curves[case])[::-1]]
    results.say(table(["", "", "MB at the start", "most", "at the end"], rows))
    results.write(given.out)


if __name__ == "__main__":
    main()
