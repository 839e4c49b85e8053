"""Sessions that wait, and the memory that they hold: EXPLICIT, resumable, of the smallest size, and silent once opened.

Some have sent a latent and read its frames. `python -m bench.idle [--rounds 1] [--out DIR]` prints what each costs; a
test holds the bound (`tests/integration/server/test_idle_sessions.py`).
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc

from bench.harness import Results, run_rounds, table
from bench.processes import KIB, Server, anonymous_bytes
from framehaul import wire
from framehaul.v1 import frames_pb2 as pb

WARM_UP: Final = 50
FEW: Final = 100
MANY: Final = 600
"""Each session's cost is the growth from `FEW` to `MANY`: what is allocated in steps counts for all of them."""
CASES: Final = {
    "on 10 connections": (10, True),
    "on one connection": (1, True),
    "a connection for each 25, lost": (1, False),
}
"""How many connections, and whether they last."""
_CHANNELS: Final = 16
_LATENT: Final = bytes(_CHANNELS * 2)
"""One of 1x1 float16 zeros: frames of 8x8 pixels."""
_OPEN: Final = pb.Open(
    model="tiny",
    geometry=pb.LatentGeometry(channels=_CHANNELS, height=1, width=1),
    dtype=pb.DATA_TYPE_FLOAT16,
    mode=pb.MODE_EXPLICIT,
    resume=pb.Resume(),
    window_frames=8,
)
_AT_ONCE: Final = 25
_SETTLED_CHECKS: Final = 3
_CHECK_S: Final = 0.2
_STEADY_BYTES: Final = 256 << 10


class IdleSessions:
    """Sessions that wait on `num_connections` connections to one server."""

    def __init__(self, target: str, num_connections: int) -> None:
        """Start without any; needs a running loop."""
        self._target = target
        self._num_connections = num_connections
        self._connections: list[grpc.aio.Channel] = []
        self._calls: list[Any] = []
        self._newest_id = b""

    async def open(self, count: int, *, step: int = 2) -> None:
        """Open `count` more; each `step`th sends a latent and has its frames when this returns."""
        if not self._connections:
            # Without the option, gRPC would make one connection of them all.
            options = [("grpc.use_local_subchannel_pool", 1)]
            self._connections = [
                grpc.aio.insecure_channel(self._target, options=options) for _ in range(self._num_connections)
            ]
        for start in range(0, count, _AT_ONCE):
            indices = range(start, min(start + _AT_ONCE, count))
            self._calls += await asyncio.gather(*(self._open(index, latent=index % step == 0) for index in indices))

    async def open_and_leave(self, count: int) -> None:
        """Open `count` more and drop their connections, a few at a time; the sessions stay."""
        for _ in range(0, count, _AT_ONCE):
            await self.open(_AT_ONCE, step=1)
            await self.leave()

    async def leave(self) -> None:
        """Drop all connections."""
        for connection in self._connections:
            await connection.close()
        self._connections.clear()
        self._calls.clear()

    async def cancel(self) -> None:
        """End the sessions that have a connection, and that too."""
        for call in self._calls:
            await call.write(wire.join(pb.StreamRequest(cancel=True), ()))
            await call.code()
        await self.leave()

    def resumption(self) -> bytes:
        """The request that takes up the newest session that has its first frames, which it wants again."""
        again = pb.Open()
        again.CopyFrom(_OPEN)
        again.resume.session_id = self._newest_id
        return pb.StreamRequest(open=again).SerializeToString()

    async def _open(self, index: int, *, latent: bool) -> Any:
        method: Any = self._connections[index % self._num_connections].stream_stream(f"/{wire.SERVICE}/Stream")
        call = method()
        await call.write(wire.join(pb.StreamRequest(open=_OPEN), ()))
        opened = wire.split_response(await call.read()).header.opened
        if latent:
            await call.write(wire.join(pb.StreamRequest(), (_LATENT,)))
            while not wire.split_response(await call.read()).header.HasField("frames"):
                pass
            self._newest_id = opened.session_id
        return call


async def settled(*pids: int) -> tuple[int, ...]:
    """Anonymous memory of processes once it has stopped growing."""
    held, unchanged = tuple(map(anonymous_bytes, pids)), 0
    while unchanged < _SETTLED_CHECKS:
        await asyncio.sleep(_CHECK_S)
        now = tuple(map(anonymous_bytes, pids))
        steady = all(later - earlier < _STEADY_BYTES for earlier, later in zip(held, now, strict=True))
        unchanged = unchanged + 1 if steady else 0
        held = tuple(map(max, held, now))
    return held


async def bytes_each(more: Callable[[int], Awaitable[None]], *pids: int, many: int = MANY) -> tuple[float, ...]:
    """Open `many` sessions with `more`; what each holds in each of the processes."""
    await more(FEW)
    few = await settled(*pids)
    await more(many - FEW)
    all_of_them = await settled(*pids)
    return tuple((later - earlier) / (many - FEW) for earlier, later in zip(few, all_of_them, strict=True))


async def _measure(server: Server, many: int, num_connections: int, *, connected: bool) -> dict[str, float]:
    pids = server.pid, server.worker_pid
    idle = IdleSessions(server.target, num_connections)
    await idle.open(WARM_UP)
    await idle.cancel()
    in_server, in_worker = await bytes_each(idle.open if connected else idle.open_and_leave, *pids, many=many)
    await idle.leave()
    return {"server_kib": in_server / KIB, "worker_kib": in_worker / KIB}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=MANY, help=f"at the most; more than {FEW}")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    results = Results(name="idle", title="Idle sessions")

    def measure(case: str) -> dict[str, float]:
        options = ("--device", "cpu", "--max-sessions", str(given.sessions), "--resume-window", "600")
        with Server(*options) as server:
            num_connections, connected = CASES[case]
            return asyncio.run(_measure(server, given.sessions, num_connections, connected=connected))

    found = run_rounds(tuple(CASES), given.rounds, measure)
    results.figures = {"idle": found}
    results.say(
        f"EXPLICIT, resumable sessions of `tiny` with latents of 1x1, opened and then silent: growth of anonymous "
        f"memory from {FEW} to {given.sessions} of them, for each. A fresh server each time, in which {WARM_UP} have "
        "come and gone. The worker's part is the decoder's state."
    )
    rows = ([case, each["server_kib"], each["worker_kib"]] for case, each in found.items())
    results.say(table(["sessions", "in the server, KiB each", "in the worker"], rows))
    results.write(given.out)


if __name__ == "__main__":
    main()
