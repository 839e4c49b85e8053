"""Memory of a real server and worker: flat however long a clip is; sessions that stand still make room for others."""

import asyncio
from contextlib import ExitStack, suppress

import grpc
import numpy as np
import psutil
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient
from framehaul_pipeline.device.host_memory import SLACK_BYTES
from tests.integration.conftest import StartServer
from tests.support.call import Call, details
from tests.support.clips import LATENT_BYTES, latents, opening
from tests.support.server_process import ServerProcess

BURST = 20
NUM_BURSTS = 20
WARM_BURSTS = 5
GROWTH_BYTES = 6 << 20
"""The later latents' frames are 14 MB, and 300 states of 1 MB would be kept if one were for each."""
PAGE_GIB = 1 / 64
TINY_MEMORY = ("--device-memory-gib", str(3 * PAGE_GIB), "--chunk-latents", "4")
"""Two pages of workspace for chunks of this size, and one for a session's state."""
ONE_SESSION_GIB = 28 / 1024
"""Where nothing is parked, pages have 1 MiB: 25 of workspace, two for a session's state, one too few for another."""


def own_bytes(server: ServerProcess) -> tuple[int, int]:
    """Memory of the server and of its worker, without the rings that both map."""
    processes = (psutil.Process(server.process.pid), server.worker())
    first, second = (info.rss - info.shared for info in (process.memory_info() for process in processes))
    return first, second


def one(index: int) -> bytes:
    return latents(BURST)[index * LATENT_BYTES : (index + 1) * LATENT_BYTES]


def test_memory_does_not_grow_with_a_clips_length(server: ServerProcess) -> None:
    """From the hundredth latent to the four hundredth, neither process takes more.

    Chunks have one size: with sizes that follow the machine's load, an allocator's free blocks fit now and then not.
    """
    sizes = []
    with server.channel() as channel, Call(channel) as client:
        client.send(open=opening())
        for first in range(0, BURST * NUM_BURSTS, BURST):
            for index in range(BURST):
                client.send(one(index), index=first + index)
            client.read_frames(4 * (first + BURST))
            sizes.append(own_bytes(server))
        client.half_close()
        client.read_to_end()
    assert client.done == pb.Done(num_frames=4 * BURST * NUM_BURSTS, num_latents=BURST * NUM_BURSTS)
    for before, after in zip(sizes[WARM_BURSTS - 1], sizes[-1], strict=True):
        assert after - before < GROWTH_BYTES, f"bytes of server and worker after each burst: {sizes}"


@pytest.mark.asyncio
async def test_the_workers_memory_follows_its_sessions(start_server: StartServer) -> None:
    """After many of mixed sizes, four at once, it is what it was at the start: no size's peak is kept."""
    server = start_server("--device", "cpu", "--no-standby")
    _, start_bytes = own_bytes(server)
    # The largest take half a GB each to decode, and come in the middle of the others.
    sides = iter([*[8, 16, 4, 8, 12] * 6, 40, *[4, 8, 16, 12, 8] * 6, 40, *[8] * 10])

    async def client() -> None:
        for side in sides:
            num_latents = 3 if side == 40 else 1
            clip = np.zeros((num_latents, 16, side, side), np.float32)
            async with FrameClient(server.target) as frames, frames.session(clip) as session:
                assert len([frame async for frame in session]) == 4 * num_latents

    await asyncio.gather(*(client() for _ in range(4)))
    held = [own_bytes(server)[1]]
    with suppress(TimeoutError):
        async with asyncio.timeout(60):
            while held[-1] > start_bytes + SLACK_BYTES:
                await asyncio.sleep(0.1)
                held.append(own_bytes(server)[1])
    assert held[-1] <= start_bytes + SLACK_BYTES, f"{start_bytes >> 20} MiB at the start, {held[-1] >> 20} now"


def test_sessions_that_stand_still_make_room_for_others(start_server: StartServer) -> None:
    """Three sessions on a device with room for one: each gets the frames of a lone one; a fourth is told why not."""
    server = start_server(*TINY_MEMORY, "--park-gib", str(3 * PAGE_GIB))
    assert "0.1 GB of device memory for sessions" in server.ready_line
    num_latents = 4
    with ExitStack() as stack:
        clients = [stack.enter_context(Call(stack.enter_context(server.channel()))) for _ in range(3)]
        for client in clients:
            client.send(one(0), open=opening())
        for index in range(1, num_latents):
            for client in clients:
                client.read_frames(4 * index)
                client.send(one(index), index=index)
        for client in clients:
            client.read_frames(4 * num_latents)
        assert clients[0].frames == clients[1].frames == clients[2].frames
        with server.channel() as channel, Call(channel) as fourth:
            fourth.send(one(0), open=opening())
            with pytest.raises(grpc.RpcError) as caught:
                fourth.read_to_end()
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "device memory is full: a session of this size needs 0.02 GiB for its state" in details(caught.value)
        assert "2 are parked in 0.03 GiB of 0.05 GiB" in details(caught.value)
        load = server.load()
        assert (load.session_memory_bytes, load.session_memory_used_bytes) == (48 << 20, 48 << 20)
        assert load.sessions_parked == 2
        for client in clients:
            client.half_close()
            client.read_to_end()
    server.expect_idle()
    load = server.load()
    assert (load.session_memory_used_bytes, load.sessions_parked) == (0, 0)
    with server.channel() as channel, Call(channel) as alone:
        alone.send(b"".join(one(index) for index in range(num_latents)), open=opening(), end_of_latents=True)
        assert len(alone.read_to_end()) == len(clients[0].frames)


def test_without_parking_a_full_device_refuses_the_next(start_server: StartServer) -> None:
    """And takes it once the other is gone."""
    server = start_server("--device-memory-gib", str(ONE_SESSION_GIB), "--chunk-latents", "4", "--park-gib", "0")
    with server.channel() as channel, Call(channel) as first, Call(channel) as second:
        first.send(one(0), open=opening())
        first.read_frames(4)
        second.send(one(0), open=opening())
        with pytest.raises(grpc.RpcError) as caught:
            second.read_to_end()
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    server.expect_idle()
    with server.channel() as channel, Call(channel) as third:
        third.send(one(0), open=opening(), end_of_latents=True)
        assert third.read_to_end() == first.frames
