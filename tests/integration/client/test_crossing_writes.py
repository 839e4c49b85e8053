"""Writes that cross the end of the call.

grpc.aio 1.85 sets an INTERNAL of its own when a write fails because the server has ended the call, and its `read()`
then drops the messages that are still there (grpc/grpc#36066). A server in another process can end a call while this
event loop looks away, which makes that certain.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import IO, Any

import crc32c
import grpc.aio
import numpy as np
import pytest

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient, InvalidRequest
from tests.support.fake_server import RGB_SHAPE, expected_frames, make_latents


@contextmanager
def distant_server(*arguments: str) -> Iterator[tuple[str, IO[str]]]:
    """Run a fake server in a process of its own: its address, and what tells of each session's end."""
    command = [sys.executable, "-m", "tests.support.fake_server", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.stdout
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, IO[str]]]:
    """A server that does its work and leaves."""
    with distant_server() as running:
        yield running


@pytest.fixture(scope="module")
def refusing_server() -> Iterator[tuple[str, IO[str]]]:
    """A server that ends with an error after two latents."""
    with distant_server("2") as running:
        yield running


async def sent_all() -> None:
    """Wait until the session has sent its last latents, or can't send them any more: the call may be over already."""
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == "framehaul latents"]
    if tasks:
        await asyncio.wait(tasks)


@pytest.mark.parametrize("num_latents", [3, 4, 5, 6, 7])
def test_an_acknowledgement_that_fails_hides_no_frames(server: tuple[str, IO[str]], num_latents: int) -> None:
    """The server is gone before the first frame is consumed; every frame and Done are still read."""
    target, ends = server
    latents = make_latents(num_latents)

    async def look_away() -> list[np.ndarray[Any, Any]]:
        async with FrameClient(target) as client, client.session(latents, window_frames=32) as session:
            frames = [await anext(session), await anext(session)]
            await sent_all()
            assert ends.readline() == "left\n"  # blocks the event loop on purpose
            frames += [frame async for frame in session]
            return frames

    frames = asyncio.run(look_away())
    assert np.array_equal(np.stack(frames), expected_frames(latents, RGB_SHAPE))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5])
def test_an_acknowledgement_that_fails_hides_no_reason(refusing_server: tuple[str, IO[str]], num_frames: int) -> None:
    """The server's error is what the caller gets, whether or not frames are still unread."""
    target, ends = refusing_server

    async def look_away() -> None:
        async with FrameClient(target) as client, client.session(make_latents(3), window_frames=8) as session:
            for _ in range(num_frames):
                await anext(session)
            await sent_all()
            assert ends.readline() == "left\n"  # blocks the event loop on purpose
            async for _ in session:
                pass

    with pytest.raises(InvalidRequest, match="latents: NaN"):
        asyncio.run(look_away())


def test_latents_that_fail_hide_no_reason(refusing_server: tuple[str, IO[str]]) -> None:
    """The same when it is latents that come too late."""
    target, ends = refusing_server

    async def look_away() -> None:
        consumed = asyncio.Event()

        async def produce() -> AsyncIterator[np.ndarray[Any, Any]]:
            for latent in make_latents(3):
                yield latent
            await consumed.wait()
            assert ends.readline() == "left\n"  # blocks the event loop on purpose
            for latent in make_latents(3):
                yield latent

        async with FrameClient(target) as client, client.session(produce(), window_frames=8) as session:
            async for _ in session:
                consumed.set()

    with pytest.raises(InvalidRequest, match="latents: NaN"):
        asyncio.run(look_away())


async def fault_of_grpc(target: str, ends: IO[str]) -> bool:
    """Let a plain call's write cross the end of the call: whether grpc then hides what the server said."""
    opened = pb.Open(
        geometry=pb.LatentGeometry(channels=4, height=2, width=4),
        dtype=pb.DATA_TYPE_FLOAT16,
        pixel_format=pb.PIXEL_FORMAT_RGB24,
        mode=pb.MODE_EXPLICIT,
    )
    content = make_latents(1).tobytes()
    last = pb.StreamRequest(index=0, crc32c=crc32c.crc32c(content), num_latents=1, end_of_latents=True, latents=content)
    async with grpc.aio.insecure_channel(target) as channel:
        start: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{wire.SERVICE}/Stream")
        call = start()
        await call.write(pb.StreamRequest(open=opened).SerializeToString())
        await call.read()
        await call.write(last.SerializeToString())
        ends.readline()  # blocks the event loop on purpose
        try:
            await call.write(pb.StreamRequest(ack=pb.Ack(next_frame=0)).SerializeToString())
        except grpc.aio.AioRpcError:
            try:
                await call.read()
            except grpc.aio.AioRpcError as error:
                return "Internal error from Core" in str(error)
        return False


def test_grpc_still_needs_this(server: tuple[str, IO[str]]) -> None:
    """When this fails, grpc is repaired, and `stream` can be simpler.

    Whether the end of the call has come when the write starts is up to the network: so it is tried some times.
    """
    assert any(asyncio.run(fault_of_grpc(*server)) for _ in range(20))
