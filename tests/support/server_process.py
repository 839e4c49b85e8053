"""A real server with a real worker on the CPU, as a subprocess, and what tests ask of it."""

import os
import queue
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from crc32c import crc32c

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul.v1 import frames_pb2_grpc

SIZE = 8  # latents of 8x8: frames of 64x64 pixels
CHANNELS = 16
LATENT_BYTES = CHANNELS * SIZE * SIZE * 2
FRAME_BYTES = 64 * 64 * 3
SAME_CHUNKS = ("--chunk-latents", "1")
"""Every run cuts a clip alike. Only the same chunks give the same bytes, and longer ones are cut by chance."""
COMMON_OPTIONS = ("--listen", "127.0.0.1:0", "--device", "cpu", "--max-size", "512x512", "--no-standby")
START_TIMEOUT_S = 60.0


def opening(**changes: object) -> pb.Open:
    """A correct `Open` of the built-in model, with some fields changed."""
    fields: dict[str, object] = {
        "model": "tiny",
        "geometry": pb.LatentGeometry(channels=CHANNELS, height=SIZE, width=SIZE),
        "dtype": pb.DATA_TYPE_FLOAT16,
        "normalized": True,
    }
    return pb.Open(**{**fields, **changes})  # type: ignore[arg-type]


def latents(count: int, seed: int = 0) -> bytes:
    """`count` latents of noise."""
    noise = np.random.default_rng(seed).standard_normal((count, CHANNELS, SIZE, SIZE), dtype=np.float32)
    return noise.astype(np.float16).tobytes()


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Wait for another process's state, which sends no event to us."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def stream(channel: grpc.Channel, requests: Iterable[bytes], **settings: Any) -> Any:
    """Start a `Stream` call of raw messages."""
    method: Any = channel.stream_stream(f"/{wire.SERVICE}/Stream")
    return method(iter(requests), **settings)


def details(error: grpc.RpcError) -> str:
    """What a status says."""
    return error.details() or ""


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

    def worker(self) -> psutil.Process:
        """The process that is the worker now: the log says which, a moment after the server is ready."""
        pids: list[str] = []

        def is_logged() -> bool:
            pids[:] = re.findall(r"worker ready pid=(\d+)", self.log)
            return bool(pids)

        eventually(is_logged, "a worker in the log")
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

        eventually(stands_by, "a standby that waits")
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        return self.process.wait(timeout_s)

    @contextmanager
    def channel(self, **options: int) -> Iterator[grpc.Channel]:
        """A connection of its own."""
        settings = {"grpc.use_local_subchannel_pool": 1, "grpc.max_send_message_length": -1, **options}
        with grpc.insecure_channel(self.target, options=list(settings.items())) as channel:
            yield channel

    @contextmanager
    def stub(self) -> Iterator[frames_pb2_grpc.FrameServiceStub]:
        """A generated stub on a connection of its own."""
        with self.channel() as channel:
            yield frames_pb2_grpc.FrameServiceStub(channel)

    def load(self) -> pb.Load:
        with self.stub() as stub:
            return stub.GetServerInfo(pb.GetServerInfoRequest()).load

    def expect_idle(self, timeout_s: float = 20.0) -> None:
        """Every session and slot comes back, and nobody waits."""
        eventually(
            lambda: not ((load := self.load()).sessions or load.queued or load.slots_in_use),
            "nothing held any more",
            timeout_s,
        )


@contextmanager
def running_server(log: Path, *options: str) -> Iterator[ServerProcess]:
    """Start a server with `COMMON_OPTIONS` and these; kill it at the end if it is still there."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FRAMEHAUL_")}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "framehaul_server.cli", *COMMON_OPTIONS, *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
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
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, f"workers outlived their server: {alive}, after {gone}"


class Client:
    """A hand-driven `Stream` call that uses our codec; frames are checked as they come."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.call = stream(channel, iter(self._requests.get, None))
        self.opened = pb.Opened()
        self.latents_until = 0
        self.done: pb.Done | None = None
        self.drain: pb.Drain | None = None
        self.frames: list[int] = []
        """Checksum of each frame, in order."""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.call.cancel()
        self.half_close()

    def send(self, payload: bytes = b"", **fields: object) -> None:
        self._requests.put(wire.join(pb.StreamRequest(**fields), (payload,)))  # type: ignore[arg-type]

    def half_close(self) -> None:
        self._requests.put(None)

    def read(self) -> pb.StreamResponse:
        """Take the next response; raises `StopIteration` after the last, or the call's error."""
        envelope = wire.split_response(next(self.call))
        header = envelope.header
        if header.HasField("opened"):
            self.opened = header.opened
        if header.latents_until:
            assert header.latents_until > self.latents_until
            self.latents_until = header.latents_until
        if header.HasField("drain"):
            self.drain = header.drain
        if header.HasField("done"):
            self.done = header.done
            self.half_close()
        if header.HasField("frames"):
            self._take(header.frames, envelope.payload)
        return header

    def _take(self, frames: pb.Frames, payload: memoryview) -> None:
        assert frames.first_frame == len(self.frames)
        assert len(payload) == frames.num_frames * self.opened.frame_bytes
        for start in range(0, len(payload), self.opened.frame_bytes):
            self.frames.append(crc32c(payload[start : start + self.opened.frame_bytes]))
        assert self.frames[frames.first_frame :] == list(frames.crc32c)

    def read_frames(self, count: int) -> None:
        """Read until `count` frames are here."""
        while len(self.frames) < count:
            self.read()

    def read_to_end(self) -> list[int]:
        """Read until the call ends well."""
        with suppress(StopIteration):
            while True:
                self.read()
        assert self.done is not None
        assert self.done.num_frames == len(self.frames)
        return self.frames
