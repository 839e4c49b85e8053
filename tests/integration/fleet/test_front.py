"""A front with two real servers on the CPU, and clients that know its address alone."""

import asyncio
import signal
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client.client import FrameClient
from framehaul_client.errors import InvalidRequest
from tests.support.clips import make_clip
from tests.support.server_process import ServerProcess, ended_server, has_ended, running_server
from tests.support.waiting import eventually, wait_until

CLIP = make_clip(12, height=2, width=3, seed=4)
NUM_FRAMES = 4 * len(CLIP)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("front") / "log"
    with running_server(log, "--device", "auto", "--devices", "cpu,cpu", "--session-window-mib", "1") as running:
        yield running


class Watcher:
    """A client that stops after its first frames until it may go on."""

    def __init__(self, target: str, go_on: asyncio.Event) -> None:
        self._target = target
        self._go_on = go_on
        self.started = asyncio.Event()
        self.num_reconnects = 0

    async def run(self) -> bytes:
        frames: list[bytes] = []
        async with (
            FrameClient(self._target) as client,
            client.session(CLIP, reproducible=True, window_frames=4) as session,
        ):
            async for frame in session:
                frames.append(np.asarray(frame).tobytes())
                if len(frames) == 5:
                    self.started.set()
                    await self._go_on.wait()
            self.num_reconnects = session.statistics.num_reconnects
        assert len(frames) == NUM_FRAMES
        return b"".join(frames)


@pytest.mark.asyncio
async def test_sessions_of_a_server_that_is_killed_go_on_at_the_other(front: ServerProcess) -> None:
    """Each frame once, with the same bytes; the server comes back; and no process outlives the front."""
    go_on = asyncio.Event()
    go_on.set()
    expected = await Watcher(front.target, go_on).run()
    go_on.clear()
    watchers = [Watcher(front.target, go_on) for _ in range(4)]
    running = [asyncio.create_task(watcher.run()) for watcher in watchers]
    await asyncio.gather(*(watcher.started.wait() for watcher in watchers))
    with front.stub() as stub:
        assert stub.GetServerInfo(pb.GetServerInfoRequest()).load.sessions <= 4
        first = psutil.Process(front.process.pid).children()[0]
        first.send_signal(signal.SIGKILL)
        go_on.set()
        found = await asyncio.wait_for(asyncio.gather(*running), 60)
        assert [each == expected for each in found] == [True] * 4
        assert sorted(watcher.num_reconnects for watcher in watchers) == [0, 0, 1, 1]
        await eventually(
            lambda: stub.GetServerInfo(pb.GetServerInfoRequest()).limits.max_sessions == 128, lambda: front.log
        )


@pytest.mark.asyncio
async def test_what_only_a_server_does_is_refused_with_the_way_to_one(front: ServerProcess) -> None:
    async with FrameClient(front.target) as client:
        found = await client.locate()
        assert len({found.target, *found.alternatives} - {front.target}) == 2
        with pytest.raises(InvalidRequest, match="this address is a front") as caught:
            await anext(client.trace(1.0))
        assert caught.value.reason == "FRONT"


def test_no_process_outlives_a_front_that_is_killed(front: ServerProcess) -> None:
    """The last test here: nothing serves any more."""
    processes = psutil.Process(front.process.pid).children(recursive=True)
    assert len(processes) >= 4, "two servers and their workers"
    front.signal(signal.SIGKILL)
    wait_until(lambda: all(map(has_ended, processes)), "all have ended")


def test_a_device_that_is_not_there_is_named() -> None:
    ended = ended_server("--device", "auto", "--devices", "cpu,cuda:999")
    assert ended.returncode == 2
    assert "--devices cpu,cuda:999: cuda:999 isn't there: must be " in ended.stderr
