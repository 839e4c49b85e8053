"""Reproducible sessions: the same latents give the same bytes, whatever a server does beside them and whatever breaks.

The servers' processor is told to be one whose convolutions round differently in chunks of another length.
"""

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.clips import make_clip
from tests.support.proxy import Direction, FaultProxy
from tests.support.reproducing import digest, digest_beside_others, digest_one_by_one
from tests.support.server_process import ServerProcess, running_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIP = make_clip(10, height=2, width=3, seed=4)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
        with running_server(tmp_path_factory.mktemp("shared") / "log", "--chunk-latents", "4") as running:
            yield running


class Servers:
    """The one that tests share, and some of a test's own."""

    def __init__(self, shared: ServerProcess, folder: Path, stack: ExitStack) -> None:
        self.shared, self._folder, self._stack = shared, folder, stack
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
    return await digest(shared.target, CLIP)


async def one_by_one(servers: Servers) -> str:
    return await digest_one_by_one(servers.shared.target, CLIP)


async def beside_others(servers: Servers) -> str:
    return await digest_beside_others(servers.shared.target, CLIP)


async def where_it_is_the_default(servers: Servers) -> str:
    """A client that doesn't say gets it; the chunks of others have another length there."""
    other = servers.start("--chunk-latents", "3", "--max-size", "128x128", "--reproducible")
    return await digest(other.target, CLIP, reproducible=None)


async def through_cuts(servers: Servers) -> str:
    async with FaultProxy(servers.shared.target) as proxy:
        for message in (3, 5, 8):
            proxy.cut_at(Direction.TO_CLIENT, message)
        found = await digest(proxy.target, CLIP, window_frames=8)
        assert proxy.num_cuts
    return found


async def through_a_workers_death(servers: Servers) -> str:
    worker = servers.shared.worker()

    def kill(num_frames: int) -> None:
        if num_frames == 18:
            worker.kill()

    return await digest(servers.shared.target, CLIP, window_frames=8, taken=kill)


async def through_a_servers_death(servers: Servers) -> str:
    """Another one takes its address, and gets the latents from the middle on."""
    first = servers.start("--chunk-latents", "2")

    def replace(num_frames: int) -> None:
        if num_frames == 30:
            first.signal(signal.SIGKILL)
            first.wait()
            servers.start("--listen", first.target)

    return await digest(first.target, CLIP, window_frames=8, taken=replace)


WAYS = (
    one_by_one,
    beside_others,
    where_it_is_the_default,
    through_cuts,
    through_a_workers_death,
    through_a_servers_death,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_the_same_latents_give_the_same_bytes(
    servers: Servers, alone: str, way: Callable[[Servers], Awaitable[str]]
) -> None:
    assert await way(servers) == alone
