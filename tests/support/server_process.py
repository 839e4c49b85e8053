"""The server with a worker on the CPU, as a process of its own, and what tests ask of it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil

from framehaul.v1 import frames_pb2 as pb
from framehaul.v1 import frames_pb2_grpc
from tests.support.call import CHANNEL_OPTIONS, Call
from tests.support.clips import latents, opening
from tests.support.waiting import wait_until

COMMON_OPTIONS = ("--listen", "127.0.0.1:0", "--device", "cpu", "--max-size", "512x512", "--no-standby")
"""Of every server in tests, in a process of its own or not."""
SAME_CHUNKS = ("--chunk-latents", "1")
"""Every run cuts a clip alike. Only the same chunks give the same bytes, and longer ones are cut by chance."""


class ServerProcess:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[str]", ready_line: str, log: Path) -> None:
        self.process = process
        self.ready_line = ready_line
        self.target = ready_line.split(" on ")[1].split(",")[0]
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def metrics_target(self) -> str:
        """Where it answers operators."""
        found = re.search(r" metrics listen=(\S+)", self.log)
        assert found is not None, "started with --metrics"
        return found[1]

    def session_ends(self) -> list[dict[str, str]]:
        """What the log says of each session that has ended."""
        lines = [line for line in self.log.splitlines() if " session_end " in line]
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def worker(self) -> psutil.Process:
        """The process that is the worker now: the log says which, a moment after the server is ready."""
        pids: list[str] = []

        def is_logged() -> bool:
            pids[:] = re.findall(r"worker ready pid=(\d+)", self.log)
            return bool(pids)

        wait_until(is_logged, "a worker in the log")
        return psutil.Process(int(pids[-1]))

    def standby(self) -> psutil.Process:
        """The process that stands by; waits until one has imported everything."""
        found: list[psutil.Process] = []

        def stands_by() -> bool:
            try:
                worker = self.worker()
            except psutil.NoSuchProcess:
                return False  # the next one isn't ready yet
            others = set(psutil.Process(self.process.pid).children()) - {worker}
            imported = {int(pid) for pid in re.findall(r"imported pid=(\d+)", self.log)}
            found[:] = [child for child in others if child.pid in imported]
            return bool(found)

        wait_until(stands_by, "a standby that waits")
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 60.0) -> int:
        return self.process.wait(timeout_s)

    @contextmanager
    def channel(self, **options: int) -> Iterator[grpc.Channel]:
        """A connection of its own."""
        with grpc.insecure_channel(self.target, options=[*CHANNEL_OPTIONS, *options.items()]) as channel:
            yield channel

    @contextmanager
    def stub(self) -> Iterator[frames_pb2_grpc.FrameServiceStub]:
        """A generated stub on a connection of its own."""
        with self.channel() as channel:
            yield frames_pb2_grpc.FrameServiceStub(channel)

    def load(self) -> pb.Load:
        with self.stub() as stub:
            return stub.GetServerInfo(pb.GetServerInfoRequest()).load

    def expect_idle(self, timeout_s: float = 60.0) -> None:
        """Every session and slot comes back, and nobody waits."""
        wait_until(
            lambda: not ((load := self.load()).sessions or load.queued or load.slots_in_use),
            "nothing held any more",
            timeout_s,
        )

    def expect_serves(self) -> None:
        """A good session works."""
        with self.channel() as channel, Call(channel) as call:
            call.send(latents(2), open=opening(), end_of_latents=True)
            assert len(call.read_to_end()) == 8


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more, collected by its parent or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, without what would change the commands' defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FRAMEHAUL_")} | changes


def command(*options: str) -> list[str]:
    """Starts a server with `COMMON_OPTIONS` and these."""
    return [sys.executable, "-m", "framehaul_server", *COMMON_OPTIONS, *options]


def ended_server(*options: str) -> "subprocess.CompletedProcess[str]":
    """Run one that ends by itself."""
    return subprocess.run(command(*options), env=environment(), capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def running_server(log: Path, *options: str) -> Iterator[ServerProcess]:
    """Start one; stop it at the end if it is still there."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command(*options), stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment()
        )
    workers: list[psutil.Process] = []
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"the server ended: {log.read_text()}"
            workers = psutil.Process(process.pid).children()
            yield ServerProcess(process, line.rstrip("\n"), log)
        finally:
            if process.poll() is None:
                workers += psutil.Process(process.pid).children()
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive, f"workers outlived their server: {alive}, after {gone}"
