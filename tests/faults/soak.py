"""Sessions of random size against a real server, while workers are killed and stopped and links cut and frozen.

`python -m tests.faults.soak --seconds 600 --seed 1`. Everything is chosen from the printed seed, but for what the
scheduler does. At the end: every session that said it was complete had every frame once and in order, with the pixels
that the same clip has without faults; and nothing is left: no process, descriptor, slot or memfd.
"""

import argparse
import asyncio
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from framehaul_client import FrameClient, FramehaulError
from tests.faults.proxy import FaultProxy
from tests.integration.server.server_process import CHANNELS, SIZE, ServerProcess, running_server

RESUMES: Final = True
"""Whether `FrameClient` survives these faults by itself. Then every session must complete at its first attempt."""
NUM_CLIPS: Final = 12
MAX_LATENTS: Final = 60
FRAMES_PER_LATENT: Final = 4
NUM_CLIENTS: Final = 4
FAULT_EVERY_S: Final = 4.0
LEVELS_OFF: Final = 1
"""Chunk boundaries may differ from the reference's, and rounding with them."""
OPTIONS: Final = (
    *("--standby", "--chunk-timeout", "1", "--keepalive", "1"),
    *("--max-sessions", "16", "--max-restarts", "1000"),
)
Frames = np.ndarray[Any, np.dtype[np.uint8]]


def make_clip(number: int) -> "np.ndarray[Any, np.dtype[np.float16]]":
    """Latents `[T, C, h, w]`, of a length that its number decides."""
    choose = np.random.default_rng(number)
    shape = (int(choose.integers(1, MAX_LATENTS + 1)), CHANNELS, SIZE, SIZE)
    return choose.standard_normal(shape, np.float32).astype(np.float16)


class Soak:
    """One run."""

    def __init__(self, server: ServerProcess, proxy: FaultProxy, choose: random.Random) -> None:
        self.server = server
        self.proxy = proxy
        self.choose = choose
        self.references: dict[int, Frames] = {}
        self.faults: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.num_sessions = 0
        self.num_attempts = 0
        self.num_frames = 0
        self.rss: list[tuple[int, int]] = []
        """Attempts so far and the server's resident bytes then."""

    async def session(self, number: int) -> Frames:
        """One attempt, checked for frames lost and repeated by the session's own account of them."""
        self.num_attempts += 1
        clip = make_clip(number)
        async with (
            FrameClient(self.proxy.target) as client,
            client.session(clip, normalized=True) as session,
        ):
            frames = [frame.copy() async for frame in session]
        assert len(frames) == FRAMES_PER_LATENT * len(clip), f"{len(frames)} frames of {len(clip)} latents"
        return np.stack(frames)

    async def complete(self, number: int) -> None:
        """A session that is begun again until it is complete, and then compared."""
        while True:
            try:
                async with asyncio.timeout(60):
                    frames = await self.session(number)
                break
            except FramehaulError as error:
                if RESUMES:
                    raise
                self.failures[type(error).__name__] += 1
                await asyncio.sleep(0.1)
        reference = self.references.setdefault(number, frames)
        off = int(np.abs(frames.astype(np.int16) - reference).max())
        assert off <= LEVELS_OFF, f"clip {number}: frames differ from the reference by {off} levels"
        self.num_sessions += 1
        self.num_frames += len(frames)
        self.rss.append((self.num_attempts, psutil.Process(self.server.process.pid).memory_info().rss))

    async def client(self, end_s: float) -> None:
        while time.monotonic() < end_s:
            await self.complete(self.choose.randrange(NUM_CLIPS))

    async def break_things(self, end_s: float) -> None:
        faults = (self.kill_worker, self.stop_worker, self.kill_standby, self.cut, self.cut, self.freeze, self.cut_soon)
        while time.monotonic() < end_s - FAULT_EVERY_S:
            await asyncio.sleep(self.choose.uniform(0.2, 2 * FAULT_EVERY_S - 0.2))
            fault = self.choose.choice(faults)
            fault()
            self.faults[fault.__name__] += 1

    def kill_worker(self) -> None:
        self.signal_worker(signal.SIGKILL)

    def stop_worker(self) -> None:
        self.signal_worker(signal.SIGSTOP)

    def signal_worker(self, number: signal.Signals) -> None:
        try:
            self.server.worker().send_signal(number)
        except psutil.NoSuchProcess:
            self.faults["worker was gone already"] += 1

    def kill_standby(self) -> None:
        for child in psutil.Process(self.server.process.pid).children():
            if str(child.pid) not in re.findall(r"worker ready pid=(\d+)", self.server.log):
                child.kill()

    def cut(self) -> None:
        self.proxy.cut()

    def freeze(self) -> None:
        """Links of now stay half open: the server's ping notices; the client's would after half a minute."""
        self.proxy.freeze()
        asyncio.get_running_loop().call_later(3.0, self.proxy.cut)

    def cut_soon(self) -> None:
        """In the middle of somebody's message."""
        direction = self.choose.choice(list(self.proxy.num_messages))
        self.proxy.cut_at(direction, self.proxy.num_messages[direction] + self.choose.randint(0, 20))

    def slope_bytes(self) -> float:
        """Resident bytes that each attempt added, over the second half of the run."""
        half = self.rss[len(self.rss) // 2 :]
        if len(half) < 2:
            return 0.0
        attempts, rss = zip(*half, strict=True)
        return float(np.polyfit(attempts, rss, 1)[0])


def held(server: ServerProcess) -> dict[str, int]:
    """Processes, descriptors, memfds and slots of the server."""
    process = psutil.Process(server.process.pid)
    links = [psutil_link(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    return {
        "processes": len(process.children(recursive=True)),
        "memfds": sum("memfd:framehaul" in link for link in links),
        "descriptors": sum("memfd:framehaul" not in link for link in links),
    }


def left(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What there is more of than before."""
    return {name: count - before[name] for name, count in after.items() if count > before[name]}


def psutil_link(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""


async def soak(seconds: float, seed: int) -> bool:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder) / "log", *OPTIONS) as server,
    ):
        async with FaultProxy(server.target) as proxy:
            run = Soak(server, proxy, random.Random(seed))
            for number in range(NUM_CLIPS):
                await run.complete(number)
            server.standby()
            before = held(server)
            end_s = time.monotonic() + seconds
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(run.break_things(end_s))
                for _ in range(NUM_CLIENTS):
                    tasks.create_task(run.client(end_s))
        return report(run, server, before)


def report(run: Soak, server: ServerProcess, before: dict[str, int]) -> bool:
    server.expect_idle()
    server.standby()
    end_s = time.monotonic() + 30
    while left(before, after := held(server)) and time.monotonic() < end_s:
        time.sleep(0.2)
    slope = run.slope_bytes()
    cancelled = max(1, run.num_attempts - run.num_sessions)
    print(f"sessions {run.num_sessions}, attempts {run.num_attempts}, frames {run.num_frames}")
    print(f"faults {sum(run.faults.values())}: {dict(run.faults)}")
    print(f"failed attempts: {dict(run.failures)}")
    print("frames lost 0, repeated 0, different 0 in complete sessions")
    print(f"held before {before}, after {after}")
    print(
        f"RSS {run.rss[0][1] >> 20} -> {run.rss[-1][1] >> 20} MiB, {slope:.0f} bytes an attempt ({cancelled} cut short)"
    )
    return not left(before, after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    print(f"soak: {given.seconds:g} s, seed {given.seed}", flush=True)
    good = asyncio.run(soak(given.seconds, given.seed))
    print("nothing is left" if good else "FAILED: something is left")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
