"""Sessions of random size against a real server, while workers are killed and stopped and links cut and frozen.

`python -m tests.faults.soak --seconds 600 --seed 1 --device cpu`. Everything is chosen from the printed seed, but for
what the scheduler does. It fails, with exit code 1 and the reasons, unless

* every session completed at its first attempt, with every frame once and in order, and the pixels that the same clip
  has without faults; but for one that three workers died for, one right after the other;
* there was a session for every 3 s and a fault for every 6 s at least;
* no worker that went on for a dead one gave other bytes than it;
* nothing is left: no process, descriptor, slot or memfd;
* the server's memory didn't grow with the streams that ended badly (`growth.py`), or the run was too short to tell, and
  says so; besides those that the faults end, two clients keep leaving sessions in their middle, so that there are
  thousands.
"""

import argparse
import asyncio
import contextlib
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import MappingProxyType
from typing import Final

import grpc
import numpy as np
import psutil

from framehaul_client import FrameClient, FramehaulError, StreamFailed
from tests.faults.growth import Sample, growth, own_bytes
from tests.faults.held import held, left
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.clips import Clip, Frames, make_clip, opening
from tests.support.proxy import Direction, FaultProxy
from tests.support.server_process import ServerProcess, running_server

NUM_CLIPS: Final = 12
MAX_LATENTS: Final = 30
FRAMES_PER_LATENT: Final = 4
NUM_CLIENTS: Final = 6
FAULT_EVERY_S: Final = 3.0
NUM_LEAVERS: Final = 2
LEAVE_EVERY_S: Final = 0.1
LEAVE_LATENTS: Final = 2
"""Of the clips that are left in the middle: many sessions rather than long ones."""
NUM_SAMPLES: Final = 25
"""Of the server's memory, if there is time."""
SESSION_TIMEOUT_S: Final = 120.0
MIN_SECONDS: Final = 60.0
SECONDS_A_SESSION: Final = 3.0
SECONDS_A_FAULT: Final = 6.0
LEVELS_OFF: Final = MappingProxyType({"cpu": 1, "cuda": 2})
"""Chunk boundaries may differ from the reference's, and rounding with them: of float32, and of float16."""
OPTIONS: Final = (
    *("--standby", "--chunk-timeout", "1", "--keepalive", "1"),
    *("--warm-up", "64x64", "--max-sessions", "16", "--max-restarts", "1000", "--resume-window", "6"),
)


def numbered_clip(number: int) -> Clip:
    """Of a length that its number decides."""
    return make_clip(int(np.random.default_rng(number).integers(1, MAX_LATENTS + 1)), seed=number)


class Soak:
    """One run."""

    def __init__(self, server: ServerProcess, proxy: FaultProxy, choose: random.Random, levels_off: int) -> None:
        self.server = server
        self.proxy = proxy
        self.choose = choose
        self.levels_off = levels_off
        self.references: dict[int, Frames] = {}
        self.faults: Counter[str] = Counter()
        self.num_sessions = 0
        self.num_blamed = 0
        """Sessions that three workers died at work for, and for no other."""
        self.num_left = 0
        """Sessions that their client left in the middle."""
        self.num_frames = 0
        self.samples: list[Sample] = []
        self._open = asyncio.Event()
        """Clients may begin a session."""
        self._open.set()
        self._num_busy = 0
        self._idle = asyncio.Event()

    async def complete(self, number: int) -> None:
        """A session from beginning to end, whatever happens; compared with the first one of its clip."""
        clip = numbered_clip(number)
        try:
            async with (
                asyncio.timeout(SESSION_TIMEOUT_S),
                FrameClient(self.proxy.target) as client,
                client.session(clip, normalized=True) as session,
            ):
                decoded = [frame.copy() async for frame in session]
        except StreamFailed as error:
            # Three faults, one right after the other: the server can't tell them from a session that kills workers.
            if "three worker processes died" not in str(error):
                raise
            self.num_blamed += 1
            return
        assert len(decoded) == FRAMES_PER_LATENT * len(clip), f"{len(decoded)} frames of {len(clip)} latents"
        frames = np.stack(decoded)
        reference = self.references.setdefault(number, frames)
        off = int(np.abs(frames.astype(np.int16) - reference).max())
        assert off <= self.levels_off, f"clip {number}: frames differ from the reference by {off} levels"
        self.num_sessions += 1
        self.num_frames += len(frames)

    async def leave(self, number: int) -> None:
        """A session that its client leaves when it has some frames: with a word, or by cancelling its call.

        Served first: behind the others, few would come to their turn.
        """
        num_frames = self.choose.randint(0, FRAMES_PER_LATENT)
        async with asyncio.timeout(SESSION_TIMEOUT_S):
            if self.choose.random() < 0.5:
                async with (
                    FrameClient(self.proxy.target) as client,
                    client.session(numbered_clip(number)[:LEAVE_LATENTS], normalized=True, priority=1) as session,
                ):
                    for _ in range(num_frames):
                        await anext(session, None)
            else:
                async with grpc.aio.insecure_channel(self.proxy.target, options=CHANNEL_OPTIONS) as channel:
                    stream = AsyncCall(channel)
                    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # cut before it left
                        await stream.send(numbered_clip(number)[:LEAVE_LATENTS].tobytes(), open=opening(priority=1))
                        await stream.read_frames(num_frames)
                    stream.call.cancel()
        self.num_left += 1
        await asyncio.sleep(LEAVE_EVERY_S)

    async def client(self, end_s: float, work: Callable[[int], Awaitable[None]]) -> None:
        while time.monotonic() < end_s:
            await self._open.wait()
            self._num_busy += 1
            try:
                await work(self.choose.randrange(NUM_CLIPS))
            finally:
                self._num_busy -= 1
                if not self._num_busy:
                    self._idle.set()

    async def break_things(self, end_s: float) -> None:
        processes = (self.kill_worker, self.stop_worker, self.kill_standby)
        links = (self.cut, self.cut_soon)
        while time.monotonic() < end_s - FAULT_EVERY_S:
            await asyncio.sleep(self.choose.uniform(0.2, 2 * FAULT_EVERY_S - 0.2))
            fault = self.choose.choice((*processes, self.freeze, *links * 4))
            if fault():
                self.faults[fault.__name__] += 1

    async def watch_memory(self, end_s: float) -> None:
        """Let all sessions end now and then, and look how large the server is."""
        every_s = (end_s - time.monotonic()) / NUM_SAMPLES
        while time.monotonic() < end_s - every_s:
            await asyncio.sleep(every_s)
            self._open.clear()
            while self._num_busy:
                self._idle.clear()
                await self._idle.wait()
            await asyncio.to_thread(self.sample)
            self._open.set()

    def sample(self) -> None:
        """Look how large the server is without a session: it keeps for a while those whose `cancel` was cut off."""
        self.server.expect_idle(SESSION_TIMEOUT_S)
        self.samples.append(Sample(self.num_bad_ends, own_bytes(self.server.process.pid)))

    @property
    def num_bad_ends(self) -> int:
        """Streams that ended otherwise than well, as the server has them."""
        return len(re.findall(r"method=Stream .* cause=(?!ok )", self.server.log))

    @property
    def num_damaged(self) -> int:
        """Streams whose frames were decoded again, and differed."""
        return len(re.findall(r"method=Stream .* cause=data_loss ", self.server.log))

    # Faults; each says whether there was something to break

    def kill_worker(self) -> bool:
        return self.signal_worker(signal.SIGKILL)

    def stop_worker(self) -> bool:
        return self.signal_worker(signal.SIGSTOP)

    def signal_worker(self, number: signal.Signals) -> bool:
        try:
            self.server.worker().send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True

    def kill_standby(self) -> bool:
        workers = {int(pid) for pid in re.findall(r"worker ready pid=(\d+)", self.server.log)}
        others = [child for child in psutil.Process(self.server.process.pid).children() if child.pid not in workers]
        for child in others:
            child.kill()
        return bool(others)

    def cut(self) -> bool:
        broken = self.proxy.num_links > 0
        self.proxy.cut()
        return broken

    def freeze(self) -> bool:
        """Links of now stay half open: the server's ping notices; the client's would after half a minute."""
        broken = self.proxy.num_links > 0
        self.proxy.freeze()
        asyncio.get_running_loop().call_later(2.0, self.proxy.cut)
        return broken

    def cut_soon(self) -> bool:
        """Before one of the next messages, or in the middle of it."""
        direction = self.choose.choice(list(Direction))
        if self.choose.random() < 0.5:
            self.proxy.cut_at(direction, self.proxy.num_messages[direction] + self.choose.randint(0, 20))
        else:
            self.proxy.cut_after(direction, self.choose.randint(1, 1 << 20))
        return True


async def soak(seconds: float, seed: int, device: str) -> list[str]:
    """Run; gives what is wrong."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder) / "log", *OPTIONS, "--device", device) as server,
    ):
        async with FaultProxy(server.target) as proxy:
            run = Soak(server, proxy, random.Random(seed), LEVELS_OFF[device])
            for number in range(NUM_CLIPS):
                await run.complete(number)
            server.standby()
            before = held(server)
            run.sample()
            end_s = time.monotonic() + seconds
            lost: list[str] = []
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(run.break_things(end_s))
                    tasks.create_task(run.watch_memory(end_s))
                    for work in [run.leave] * NUM_LEAVERS + [run.complete] * NUM_CLIENTS:
                        tasks.create_task(run.client(end_s, work))
            except* (AssertionError, FramehaulError, TimeoutError) as failed:
                traceback.print_exception(failed)
                lost = [f"{type(error).__name__}: {error}" for error in failed.exceptions]
        return lost or report(run, server, before, seconds)


def report(run: Soak, server: ServerProcess, before: dict[str, int], seconds: float) -> list[str]:
    """Print the figures; gives what is wrong with them."""
    run.sample()
    server.standby()
    end_s = time.monotonic() + 30
    while left(before, after := held(server)) and time.monotonic() < end_s:
        time.sleep(0.2)
    num_faults = sum(run.faults.values())
    first, last = run.samples[0], run.samples[-1]
    print(f"sessions completed {run.num_sessions}, left in the middle {run.num_left}, frames {run.num_frames}")
    print(f"faults {num_faults}: {dict(run.faults)}")
    print(f"frames lost 0, repeated 0, different 0; sessions ended for three workers' deaths {run.num_blamed}")
    print(f"sessions that a worker's heir gave other bytes {run.num_damaged}")
    print(f"held before {before}, after {after}")
    print(f"streams that ended badly {run.num_bad_ends}, worker deaths {server.log.count('worker state=restarting')}")
    print(f"the server's own memory {first.num_bytes / 2**20:.1f} -> {last.num_bytes / 2**20:.1f} MiB")
    print(f"streams and KiB: {[(each.num_streams, each.num_bytes >> 10) for each in run.samples]}")
    wrong = [f"{count} {name} are left" for name, count in left(before, after).items()]
    for name, count, each_s in (
        ("sessions", run.num_sessions, SECONDS_A_SESSION),
        ("faults", num_faults, SECONDS_A_FAULT),
    ):
        if count < seconds / each_s:
            wrong.append(f"{count} {name}: at least {seconds / each_s:.0f} were promised")
    num_deaths = run.faults["kill_worker"] + run.faults["stop_worker"]
    if run.num_blamed > num_deaths // 3:
        wrong.append(f"{run.num_blamed} sessions were ended for three workers' deaths: there were {num_deaths}")
    if run.num_damaged:
        wrong.append(f"{run.num_damaged} sessions got other bytes when they were decoded again")
    return [*wrong, *judge_memory(run.samples)]


def judge_memory(samples: list[Sample]) -> list[str]:
    """Print whether memory grows, or that nobody can tell yet; gives what is wrong with it."""
    try:
        found = growth(samples)
    except ValueError as error:
        print(f"too short to tell whether memory grows: {error}")
        return []
    print(found)
    if found.too_short:
        print("too short to tell whether memory grows: it rose, but not from beginning to end")
    return [f"memory grows: {found}"] if found.exceeds_bound else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--device", choices=LEVELS_OFF, default="cpu")
    given = parser.parse_args()
    if given.seconds < MIN_SECONDS:
        parser.error(f"--seconds {given.seconds:g}: must be {MIN_SECONDS:g} or more, for the heap to find its size")
    print(f"soak: {given.seconds:g} s, seed {given.seed}, {given.device}", flush=True)
    wrong = asyncio.run(soak(given.seconds, given.seed, given.device))
    print("nothing is wrong" if not wrong else "\n".join(f"FAILED: {each}" for each in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
