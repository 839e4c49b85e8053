"""A real server that lives through many sequences, and is replaced when one of them kills it."""

import asyncio
import signal
from collections import Counter
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from framehaul.v1 import frames_pb2 as pb
from tests.faults.held import held, left
from tests.integration.resume.hand_connection import WAIT_S
from tests.integration.resume.hand_session import HandSession, Incarnation, KnownClip
from tests.support.proxy import FaultProxy
from tests.support.server_process import running_server
from tests.support.waiting import wait_until

OPTIONS = ("--standby", "--chunk-timeout", "1", "--resume-window", "300", "--grace", "2")
"""Nothing expires: what the server has to keep, it keeps. Nor is it given up, however often workers die."""
CUTS = ((1, 0), (3, 1))
"""Servers take turns: with chunks of one latent every frame is the same bit for bit; longer ones are cut by chance."""
MANY = ("--max-restarts", "1000", "--max-sessions", "64")


class Stage:
    """The server, the clips and what was done so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._resources = ExitStack()
        self._runner = asyncio.Runner()
        self.tally: Counter[str] = Counter()
        self.clips = [
            KnownClip("f16 rgb24", 8, (2, 2), pb.DATA_TYPE_FLOAT16, pb.PIXEL_FORMAT_RGB24, 16 * 16 * 3),
            KnownClip("f32 yuv420p", 5, (2, 3), pb.DATA_TYPE_FLOAT32, pb.PIXEL_FORMAT_YUV420P, 16 * 24 * 3 // 2),
            KnownClip("f16 yuv420p10le", 12, (3, 2), pb.DATA_TYPE_FLOAT16, pb.PIXEL_FORMAT_YUV420P10LE, 24 * 16 * 3),
        ]
        self._num_started = 0
        self.server: Incarnation
        try:
            self._start()
            self.server.process.standby()
        except BaseException:
            self.close()
            raise
        self._before = held(self.server.process)
        """Likewise for each server that follows."""

    @property
    def target(self) -> str:
        return self.server.process.target

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Nothing on this side moves between two of these."""
        self._runner.run(work)

    async def decode_undisturbed(self) -> None:
        """Fill the clips' frames."""
        async with FaultProxy(self.target) as road:
            for clip in self.clips:
                session = HandSession(clip, 12)
                await session.finish(self.server, road)
                await session.aclose()
                clip.frames = session.frames

    def close(self) -> None:
        self._runner.close()
        if self._num_started and self.server.lives:
            self._wake_stopped()
        self._resources.close()

    def _wake_stopped(self) -> list[psutil.Process]:
        """The server's processes; one that is stopped goes on, since it can't see its server's end otherwise."""
        children = psutil.Process(self.server.process.process.pid).children(recursive=True)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGCONT)
        return children

    def _start(self) -> None:
        number = self._num_started
        chunk_latents, levels_off = CUTS[number % len(CUTS)]
        options = (*OPTIONS, *MANY, "--chunk-latents", str(chunk_latents))
        server = self._resources.enter_context(running_server(self._folder / f"server-{number}.log", *options))
        self.server = Incarnation(server, levels_off)
        self._num_started += 1

    # What breaks

    def kill_worker(self) -> None:
        self._signal_worker(signal.SIGKILL)

    def stop_worker(self) -> None:
        self._signal_worker(signal.SIGSTOP)

    def _signal_worker(self, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):  # on its way out already
            self.server.process.worker().send_signal(number)

    def replace_server(self) -> None:
        """Its worker and its standby end with it."""
        children = self._wake_stopped()
        self.server.process.signal(signal.SIGKILL)
        self.server.process.wait()
        _, alive = psutil.wait_procs(children, timeout=WAIT_S)
        assert not alive, f"outlived their server: {alive}"
        self._resources.close()
        self._start()

    # What holds

    def expect_sessions(self, most: int) -> None:
        """No more than these are left soon."""
        wait_until(lambda: self.server.process.load().sessions <= most, f"at most {most} sessions", WAIT_S)

    def expect_nothing_left(self) -> None:
        """No session, slot, process, ring or descriptor."""
        self.server.process.expect_idle(WAIT_S)
        wait_until(lambda: not left(self._before, held(self.server.process)), f"only {self._before}", WAIT_S)
