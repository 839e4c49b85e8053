"""Who is decoded for at a real server: tenants by their weights, and those who read before those who don't."""

import asyncio
import threading
from typing import Any

import grpc
import pytest

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from tests.integration.conftest import StartServer
from tests.integration.security.conftest import TokenServer, credentials
from tests.support.call import CHANNEL_OPTIONS, AsyncCall

SIZE = 32
NUM_LATENTS = 1 << 20
MAX_COUNTS = 6
COUNTED_FRAMES = 480


class Load:
    """A tenant's sessions, each an endless synthetic clip that is read as fast as it comes."""

    def __init__(self, target: str, tenant: str, num_sessions: int) -> None:
        self._lock = threading.Lock()
        self._channel = grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
        method: Any = self._channel.unary_stream(f"/{wire.SERVICE}/Render")
        clip = pb.Synthetic(num_latents=NUM_LATENTS, height=SIZE, width=SIZE, seed=1)
        request = pb.RenderRequest(open=pb.Open(model="tiny"), synthetic=clip).SerializeToString()
        self._calls = [method(request, metadata=credentials(tenant)) for _ in range(num_sessions)]
        self.num_frames = 0
        self.changed = threading.Condition()
        self._threads = [threading.Thread(target=self._read, args=(call,)) for call in self._calls]
        for thread in self._threads:
            thread.start()

    def _read(self, call: Any) -> None:
        try:
            for raw in call:
                with self.changed:
                    self.num_frames += wire.split_response(raw).header.frames.num_frames
                    self.changed.notify_all()
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.CANCELLED  # noqa: PT017

    def wait(self, num_frames: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.num_frames >= num_frames, timeout=90)

    def close(self) -> None:
        for call in self._calls:
            call.cancel()
        for thread in self._threads:
            thread.join()
        self._channel.close()


@pytest.mark.parametrize("weight", [1, 4])
def test_ten_sessions_against_one_get_what_the_weights_say(token_server: TokenServer, weight: int) -> None:
    """Frames decoded for each, while both want more: within 20 % of the shares.

    On a busy machine a client may want no more for a moment: so they are counted some times.
    """
    token_server.let_in(many="", one=f"weight = {weight}")
    many = Load(token_server.target, "many", 10)
    many.wait(100)
    one = Load(token_server.target, "one", 1)
    try:
        one.wait(100)
        counted: list[tuple[int, int]] = []
        while not counted or (len(counted) < MAX_COUNTS and not are_shared(*counted[-1], weight)):
            started_many, started_one = many.num_frames, one.num_frames
            one.wait(started_one + (weight + 1) * COUNTED_FRAMES // 2)
            counted.append((many.num_frames - started_many, one.num_frames - started_one))
    finally:
        many.close()
        one.close()
    assert are_shared(*counted[-1], weight), f"frames for ten sessions and for one: {counted}"


def are_shared(num_many: int, num_one: int, weight: int) -> bool:
    shares = num_many / (num_one + num_many) * (weight + 1), num_one / (num_one + num_many) * (weight + 1) / weight
    return all(0.8 <= share <= 1.2 for share in shares)


NUM_IDLE = 30
WINDOW_MIB = 16
READ_LATENTS = 24


async def _count(call: AsyncCall) -> None:
    """Whatever is decoded for a session comes; nothing is acknowledged."""
    while await call.read():
        pass


@pytest.mark.asyncio
async def test_thirty_that_take_nothing_hold_up_nobody_who_reads(start_server: StartServer) -> None:
    """A later session of the same tenant comes to its end while their windows are all but empty."""
    server = start_server("--allow-synthetic", "--max-sessions", "40", "--session-window-mib", str(WINDOW_MIB))
    clip = pb.Synthetic(num_latents=NUM_LATENTS, height=SIZE, width=SIZE, seed=1)
    async with grpc.aio.insecure_channel(server.target, options=CHANNEL_OPTIONS) as channel:
        idle = [AsyncCall(channel) for _ in range(NUM_IDLE)]
        for call in idle:
            await call.send(open=pb.Open(mode=pb.MODE_EXPLICIT), synthetic=clip)
        await asyncio.gather(*(call.read_frames(1) for call in idle))
        counting = [asyncio.create_task(_count(call)) for call in idle]
        before = sum(call.num_frames for call in idle)
        reader = AsyncCall(channel)
        clip.num_latents = READ_LATENTS
        await reader.send(open=pb.Open(mode=pb.MODE_EXPLICIT), synthetic=clip)
        await reader.finish()
        more = sum(call.num_frames for call in idle) - before
        for task, call in zip(counting, idle, strict=True):
            task.cancel()
            call.call.cancel()
        await asyncio.gather(*counting, return_exceptions=True)
    room = NUM_IDLE * (WINDOW_MIB << 20) // (SIZE * SIZE * 3) - before
    assert more < room / 10, f"{more} frames for those who take nothing, of {room} that fit their windows"
