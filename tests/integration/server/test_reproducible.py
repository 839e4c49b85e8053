"""Reproducible sessions: the same latents give the same bytes, whatever a server does beside them and whatever breaks.

The servers' processor is told to be one whose convolutions round differently in chunks of another length.
"""

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from framehaul_client import FrameClient
from tests.support.clips import FRAMES_OF_A_LATENT, Clip, collect, make_clip
from tests.support.proxy import Direction, FaultProxy
from tests.support.server_process import ServerProcess, running_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIP = make_clip(10, height=2, width=3, seed=4)


@pytest.fixture(scope="module", autouse=True)
def processor() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
        yield


@pytest.fixture(scope="module")
def shared(processor: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("reproducible") / "log", "--chunk-latents", "4") as running:
        yield running


class Servers:
    """The one that tests share, and some of a test's own."""

    def __init__(self, one: ServerProcess, folder: Path, stack: ExitStack) -> None:
        self.one, self._folder, self._stack = one, folder, stack
        self._num_started = 0

    def start(self, *options: str) -> ServerProcess:
        self._num_started += 1
        return self._stack.enter_context(running_server(self._folder / f"{self._num_started}.log", *options))


@pytest.fixture
def servers(shared: ServerProcess, tmp_path: Path) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(shared, tmp_path, stack)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(shared: ServerProcess) -> str:
    """What a session gives with nothing beside it."""
    return await digest(shared.target)


async def digest(
    target: str,
    latents: Any = CLIP,
    *,
    reproducible: bool | None = True,
    taken: Callable[[int], object] = lambda _: None,
    **options: Any,
) -> str:
    """SHA-256 of all frames, in half floats, which show more of how values were rounded than 256 levels do.

    `taken` is called with the number of frames so far.
    """
    found = hashlib.sha256()
    options |= {"pixel_format": "gbrpf16le", "reproducible": reproducible}
    num_frames = 0
    async with FrameClient(target) as client, client.session(latents, **options) as session:
        assert session.opened.reproducible
        async for frame in session:
            found.update(np.ascontiguousarray(frame))
            num_frames += 1
            taken(num_frames)
    assert num_frames == FRAMES_OF_A_LATENT * len(CLIP)
    return found.hexdigest()


async def one_by_one(servers: Servers) -> str:
    """A latent comes when the frames of the one before are there."""
    wanted = asyncio.Semaphore()

    async def live() -> AsyncIterator[Clip]:
        for latent in CLIP:
            await wanted.acquire()
            yield latent

    def taken(num_frames: int) -> None:
        if num_frames % FRAMES_OF_A_LATENT == 0:
            wanted.release()

    return await digest(servers.one.target, live(), taken=taken)


async def beside_others(servers: Servers) -> str:
    """Of other sizes and the same, of which not all are reproducible."""
    async with FrameClient(servers.one.target) as client:
        clips = [make_clip(10, height=2, width=2 + seed) for seed in range(3)]
        others = [asyncio.create_task(collect(client, clip)) for clip in clips]
        found = await digest(servers.one.target)
        await asyncio.gather(*others)
    return found


async def where_it_is_the_default(servers: Servers) -> str:
    """A client that doesn't say gets it, and slots of a server for small frames hold no longer chunk."""
    other = servers.start("--chunk-latents", "3", "--max-size", "128x128", "--reproducible")
    return await digest(other.target, reproducible=None)


async def through_cuts(servers: Servers) -> str:
    async with FaultProxy(servers.one.target) as proxy:
        for message in (3, 5, 8):
            proxy.cut_at(Direction.TO_CLIENT, message)
        found = await digest(proxy.target, window_frames=8)
        assert proxy.num_cuts
    return found


async def through_a_workers_death(servers: Servers) -> str:
    worker = servers.one.worker()
    return await digest(
        servers.one.target, window_frames=8, taken=lambda num_frames: num_frames == 18 and worker.kill()
    )


async def through_a_servers_death(servers: Servers) -> str:
    """Another one takes its address, and gets the latents from the middle on."""
    first = servers.start("--chunk-latents", "2")

    def replace(num_frames: int) -> None:
        if num_frames == 30:
            first.signal(signal.SIGKILL)
            first.wait()
            servers.start("--listen", first.target)

    return await digest(first.target, window_frames=8, taken=replace)


@pytest.mark.parametrize(
    "decode",
    [
        one_by_one,
        beside_others,
        where_it_is_the_default,
        through_cuts,
        through_a_workers_death,
        through_a_servers_death,
    ],
    ids=lambda decode: decode.__name__,
)
async def test_the_same_latents_give_the_same_bytes(
    servers: Servers, alone: str, decode: Callable[[Servers], Awaitable[str]]
) -> None:
    assert await decode(servers) == alone
