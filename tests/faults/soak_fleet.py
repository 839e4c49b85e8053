"""A fleet on three nodes of Ray, all on this machine, under load, while everything in it is killed at random.

`python -m tests.faults.soak_fleet --seconds 300 --seed 1 --clients 60`. Servers, their actors, the registry, locators
and whole nodes are killed, servers are stopped, hosts drained, and load comes and goes so that the fleet grows and
shrinks. It fails, with exit code 1 and the reasons, unless

* every session completed at its first attempt, each frame once and with the bytes that its clip has without faults;
* so did each file that `client stream` wrote: it is whole, as often as it was written;
* there was a session for every 3 s and a fault for every 15 s at least, and the fleet grew from one server to four and
  shrank to one again (in 200 s and more);
* `fleet down` leaves nothing.

It prints the time from a kill to the next frame of each session that was cut off by it.
"""

import argparse
import asyncio
import hashlib
import logging
import random
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import psutil
from safetensors.numpy import save_file

from framehaul_client import FrameClient, FramehaulError
from tests.support.client_command import run_client
from tests.support.clips import FRAMES_OF_A_LATENT, make_clip
from tests.support.ray_nodes import RayNodes, running_nodes

NUM_NODES: Final = 3
CPUS_OF_A_NODE: Final = 2
LEAST_SERVERS: Final = 1
MOST_SERVERS: Final = 4
"""So many that two nodes have room for them."""
HOLD_S: Final = 10.0
NUM_LOCATORS: Final = 2
NUM_CLIPS: Final = 6
MAX_LATENTS: Final = 24
FEW: Final = 0.1
"""Of the clients, those that are there all the time."""
SWING_S: Final = 15.0
"""For the load to stay as it is, once the fleet is as large as it needs."""
FAULT_EVERY_S: Final = 6.0
NODE_AWAY_S: Final = 5.0
SESSION_TIMEOUT_S: Final = 240.0
SECONDS_A_SESSION: Final = 3.0
SECONDS_A_FAULT: Final = 15.0
SCALES_S: Final = 200.0
START_TIMEOUT_S: Final = 60.0
SERVER_OPTIONS: Final = (
    *("--max-size", "512x512", "--device-memory-gib", "1", "--no-standby"),
    *("--max-sessions", "32", "--max-queued", "64"),
)


def numbered_clip(number: int) -> np.ndarray[Any, Any]:
    """Of a length that its number decides."""
    return make_clip(int(np.random.default_rng(number).integers(4, MAX_LATENTS + 1)), height=4, width=4, seed=number)


class Soak:
    """One run."""

    def __init__(self, nodes: RayNodes, folder: Path, choose: random.Random, num_clients: int) -> None:
        self.nodes = nodes
        self.folder = folder
        self.choose = choose
        self.num_clients = num_clients
        self.references: dict[int, str] = {}
        self.faults: Counter[str] = Counter()
        self.kills: list[tuple[float, str]] = []
        self.recovered: dict[str, list[float]] = {}
        """From a kill to the next frame of a session that was cut off."""
        self.gaps: list[float] = []
        """To any other frame, from the one before or the session's beginning."""
        self.num_sessions = self.num_frames = self.num_reconnects = self.num_files = 0
        self.num_servers: list[int] = []
        """Ready, each time that the registry knows."""
        self.desired: list[int] = []
        """Likewise, those that there should be."""
        self.locators: list[tuple[subprocess.Popen[bytes], str]] = []
        self.calm = asyncio.Event()
        self.calm.set()
        """Clients beyond the first few may begin a session."""

    @property
    def target(self) -> str:
        """All locators: gRPC goes to one that is there."""
        return "ipv4:" + ",".join(address for _, address in self.locators)

    async def complete(self, number: int) -> None:
        """A session from beginning to end, whatever happens; compared with the first one of its clip."""
        clip = numbered_clip(number)
        digest, num_frames, num_reconnects = hashlib.sha256(), 0, 0
        before_s = time.monotonic()
        async with (
            asyncio.timeout(SESSION_TIMEOUT_S),
            FrameClient(self.target) as client,
            client.session(clip, normalized=True, reproducible=True, window_frames=8, retry_for_s=120.0) as session,
        ):
            async for frame in session:
                digest.update(np.ascontiguousarray(frame).tobytes())
                num_frames += 1
                now_s = time.monotonic()
                if session.statistics.num_reconnects > num_reconnects:
                    num_reconnects = session.statistics.num_reconnects
                    self.resumed(before_s, now_s)
                else:
                    self.gaps.append(now_s - before_s)
                before_s = now_s
        assert num_frames == FRAMES_OF_A_LATENT * len(clip), f"{num_frames} frames of {len(clip)} latents"
        assert self.references.setdefault(number, digest.hexdigest()) == digest.hexdigest(), f"clip {number} differs"
        self.num_sessions += 1
        self.num_frames += num_frames
        self.num_reconnects += num_reconnects

    def resumed(self, before_s: float, now_s: float) -> None:
        """A session's first frame after it was cut off, and the one before."""
        since_s, what = self.kills[-1] if self.kills else (0.0, "")
        if since_s < before_s - 1.0:  # frames came after that: its server's grace was over
            since_s, what = before_s, "server drained"
        self.recovered.setdefault(what, []).append(now_s - since_s)

    async def write_file(self) -> None:
        """The same with the `client` command, into a file that must be whole."""
        latents, out = self.folder / "clip.safetensors", self.folder / "video.mp4"
        save_file({"latents": numbered_clip(0)}, latents)
        arguments = ("stream", latents, "--out", out, "--normalized", "--reproducible", "--retry-for", "120")
        done = await run_client(*arguments, "--target", self.target)
        assert done.code == 0, f"client stream ended with {done.code}: {done.err}"
        digest, num_frames = hashlib.sha256(), 0
        with av.open(out) as video:
            for frame in video.decode(video=0):
                digest.update(np.ascontiguousarray(frame.to_ndarray()).tobytes())
                num_frames += 1
        assert num_frames == FRAMES_OF_A_LATENT * len(numbered_clip(0)), f"{num_frames} frames in the file"
        assert self.references.setdefault(-1, digest.hexdigest()) == digest.hexdigest(), "a file differs"
        out.unlink()
        self.num_files += 1

    async def client(self, index: int, end_s: float) -> None:
        while time.monotonic() < end_s:
            if index >= max(1, FEW * self.num_clients):
                await self.calm.wait()
                if time.monotonic() > end_s:
                    return
            await self.complete(self.choose.randrange(NUM_CLIPS))

    async def write_files(self, end_s: float) -> None:
        while time.monotonic() < end_s:
            await self.write_file()

    async def swing(self, end_s: float) -> None:
        """Let most of the load stay away, and come back, whenever the fleet has followed; at the end all may end."""
        while time.monotonic() < end_s:
            number = MOST_SERVERS if self.calm.is_set() else LEAST_SERVERS
            if self.num_servers[-1:] == self.desired[-1:] == [number]:
                await asyncio.sleep(min(SWING_S, end_s - time.monotonic()))
                (self.calm.clear if self.calm.is_set() else self.calm.set)()
            await asyncio.sleep(0.5)
        self.calm.set()

    async def watch(self, end_s: float) -> None:
        while time.monotonic() < end_s:
            await asyncio.sleep(2.0)
            found = await asyncio.to_thread(self.nodes.status)
            if found["settled"]:
                self.desired.append(found["desired"])
                self.num_servers.append(sum(each["state"] == "ready" for each in found["servers"]))

    async def keep_locators(self, end_s: float) -> None:
        """Start those again that have ended, as a service manager does."""
        while time.monotonic() < end_s:
            await asyncio.sleep(0.5)
            for index, (process, address) in enumerate(self.locators):
                if process.poll() is not None:
                    self.locators[index] = await asyncio.to_thread(self.locator, address)

    def locator(self, listen: str) -> tuple[subprocess.Popen[bytes], str]:
        return self.nodes.start_locator(self.folder / "locators.log", "--listen", listen)

    async def break_things(self, end_s: float) -> None:
        single = (self.kill_server, self.kill_actor, self.kill_registry, self.kill_locator, self.stop_server)
        faults: list[Callable[[], Awaitable[None]]] = [*single, *single, self.drain, self.lose_node]
        while time.monotonic() < end_s - FAULT_EVERY_S:
            for fault in self.choose.sample(faults, len(faults)):
                await asyncio.sleep(self.choose.uniform(0.5, 2 * FAULT_EVERY_S - 0.5))
                if time.monotonic() > end_s - FAULT_EVERY_S:
                    return
                try:
                    await fault()
                except (IndexError, psutil.NoSuchProcess):
                    continue  # there is none just now
                self.faults[fault.__name__] += 1

    # Faults

    async def kill_server(self) -> None:
        await self.kill("framehaul_server.member", "server killed")

    async def kill_actor(self) -> None:
        await self.kill("ray::Server", "actor killed")

    async def kill_registry(self) -> None:
        (await self.one_of("ray::Registry")).kill()

    async def kill(self, text: str, what: str) -> None:
        process = await self.one_of(text)
        self.kills.append((time.monotonic(), what))
        process.kill()

    async def one_of(self, text: str) -> psutil.Process:
        return self.choose.choice(await asyncio.to_thread(self.nodes.processes, text))

    async def stop_server(self) -> None:
        """It hangs: its actor kills it after its time."""
        process = await self.one_of("framehaul_server.member")
        self.kills.append((time.monotonic(), "server stopped"))
        process.suspend()

    async def kill_locator(self) -> None:
        self.choose.choice(self.locators)[0].kill()

    async def drain(self) -> None:
        """Take a host out, and put it back."""
        host = self.choose.choice(self.nodes.hosts)
        await asyncio.to_thread(self.command, "drain", host)
        await asyncio.to_thread(self.up)

    async def lose_node(self) -> None:
        """All of a node's processes at once; another one comes after a while."""
        host = self.choose.choice(self.nodes.hosts)
        self.kills.append((time.monotonic(), "node killed"))
        await asyncio.to_thread(self.nodes.remove, host)
        await asyncio.sleep(NODE_AWAY_S)
        await asyncio.to_thread(self.nodes.add)

    def up(self) -> None:
        aim = max(1, self.num_clients // MOST_SERVERS)
        options = ["--cpus", str(LEAST_SERVERS), "--max", str(MOST_SERVERS), "--sessions-per-server", str(aim)]
        options += ["--hold", f"{HOLD_S:g}", "--grace", "3", "--start-timeout", f"{START_TIMEOUT_S:g}"]
        self.command("up", *options, "--", *SERVER_OPTIONS)

    def command(self, *arguments: str) -> None:
        done = self.nodes.fleet(*arguments)
        assert done.returncode == 0, f"fleet {arguments[0]}: {done.stderr or done.stdout}"


async def soak(seconds: float, seed: int, num_clients: int) -> list[str]:
    """Run; gives what is wrong."""
    with tempfile.TemporaryDirectory() as folder, running_nodes(NUM_NODES, CPUS_OF_A_NODE) as nodes:
        run = Soak(nodes, Path(folder), random.Random(seed), num_clients)
        try:
            run.up()
            run.locators = [run.locator("127.0.0.1:0") for _ in range(NUM_LOCATORS)]
            for number in range(NUM_CLIPS):
                await run.complete(number)
            await run.write_file()
            run.gaps.clear()
            end_s = time.monotonic() + seconds
            wrong = await load(run, end_s)
            print_figures(run)
            wrong += judge(run, seconds)
            wrong += await asyncio.to_thread(end_fleet, run)
        finally:
            for process, _ in run.locators:
                process.kill()
                process.wait()
    return wrong


async def load(run: Soak, end_s: float) -> list[str]:
    wrong: list[str] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            for work in (run.break_things, run.swing, run.watch, run.write_files, run.keep_locators):
                tasks.create_task(work(end_s))
            for index in range(run.num_clients):
                tasks.create_task(run.client(index, end_s))
    except* (AssertionError, FramehaulError, TimeoutError) as failed:
        traceback.print_exception(failed)
        wrong = [f"{type(error).__name__}: {error}" for error in failed.exceptions]
    return wrong


def end_fleet(run: Soak) -> list[str]:
    run.command("down")
    left = [process.cmdline() for process in run.nodes.processes("framehaul_server")]
    return [f"{len(left)} processes are left after `fleet down`: {left}"] if left else []


def print_figures(run: Soak) -> None:
    print(f"sessions completed {run.num_sessions}, files written {run.num_files}, frames {run.num_frames}")
    print(f"faults {sum(run.faults.values())}: {dict(run.faults)}; sessions cut off {run.num_reconnects} times")
    print(f"servers ready, each 2 to 6 s: {run.num_servers}, and desired: {run.desired}")
    print("time from what was done to the next frame of a session that was cut off by it, s:")
    for what, seconds in sorted(run.recovered.items()):
        print(f"  {what:<16}{len(seconds):>4} times, median {statistics.median(seconds):.2f}, max {max(seconds):.2f}")
    if gaps := sorted(run.gaps):
        late = gaps[len(gaps) * 999 // 1000]
        print(f"to any other frame, s: median {statistics.median(gaps):.3f}, 99.9 % {late:.2f}, max {gaps[-1]:.2f}")


def judge(run: Soak, seconds: float) -> list[str]:
    wrong = []
    for name, count, least in (
        ("sessions", run.num_sessions, seconds / SECONDS_A_SESSION),
        ("faults", sum(run.faults.values()), seconds / SECONDS_A_FAULT),
    ):
        if count < least:
            wrong.append(f"{count} {name}: at least {least:.0f} were promised")
    if seconds >= SCALES_S:
        full = run.num_servers.index(MOST_SERVERS) if MOST_SERVERS in run.num_servers else len(run.num_servers)
        if (LEAST_SERVERS, LEAST_SERVERS) not in zip(run.num_servers[full:], run.desired[full:], strict=True):
            wrong.append(f"the fleet didn't grow to {MOST_SERVERS} servers and shrink to {LEAST_SERVERS}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--clients", type=int, default=60)
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # clients tell of each try
    print(f"soak-fleet: {given.seconds:g} s, seed {given.seed}, {given.clients} clients", flush=True)
    wrong = asyncio.run(soak(given.seconds, given.seed, given.clients))
    print("nothing is wrong" if not wrong else "\n".join(f"FAILED: {each}" for each in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
