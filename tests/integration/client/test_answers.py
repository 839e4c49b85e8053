"""What a server says besides frames: refusals, reasons, drain, statistics, information."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import (
    ConnectionLost,
    FrameClient,
    InvalidRequest,
)
from tests.support.clips import collect
from tests.support.fake_server import RGB_SHAPE, Behaviour, expected_frames, make_latents

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("attempt", range(20))
async def test_the_servers_reason_survives_writes_that_cross_it(
    target: str, behaviour: Behaviour, attempt: int
) -> None:
    """grpc.aio replaces the status by its own INTERNAL when a write fails (grpc/grpc#36066): we don't show that."""
    behaviour.budget = 100
    behaviour.fail_after_latents = (attempt % 4, (grpc.StatusCode.INVALID_ARGUMENT, "latents: NaN at 3", ()))

    async def produce() -> AsyncIterator[np.ndarray[Any, Any]]:
        for latent in make_latents(60):
            yield latent
            await asyncio.sleep(0)

    async with FrameClient(target) as client:
        with pytest.raises(InvalidRequest, match="NaN at 3"):
            await collect(client, produce())


async def test_a_consumer_slower_than_the_server_loses_nothing_at_the_end(target: str, behaviour: Behaviour) -> None:
    """The server is done and gone before the first frame is consumed: late acknowledgements fail in silence."""
    latents = make_latents()
    async with FrameClient(target) as client, client.session(latents) as session:
        await asyncio.wait_for(behaviour.left.wait(), 60)
        frames = []
        async for frame in session:
            frames.append(frame)
            await asyncio.sleep(0)
    assert np.array_equal(np.stack(frames), expected_frames(latents, RGB_SHAPE))


async def test_frames_before_a_failure_are_handed_out(target: str, behaviour: Behaviour) -> None:
    """What arrived in order is the caller's, and the error comes after it."""
    behaviour.fail_after_latents = (2, (grpc.StatusCode.UNAVAILABLE, "worker lost", ()))
    latents = make_latents()
    frames = []
    async with FrameClient(target) as client, client.session(latents, retry_for_s=0) as session:
        with pytest.raises(ConnectionLost, match="worker lost"):  # noqa: PT012
            async for frame in session:
                frames.append(frame)  # noqa: PERF401
    assert np.array_equal(np.stack(frames), expected_frames(latents, RGB_SHAPE)[: len(frames)])


async def test_drain_is_shown_and_the_stream_goes_on(
    target: str, behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that will stop says so: in the log and on the session; frames keep coming."""
    behaviour.extra = [pb.StreamResponse(drain=pb.Drain(grace_ms=2500))]
    async with FrameClient(target) as client, client.session(make_latents()) as session:
        assert len([frame async for frame in session]) == 21
        assert session.drain_grace_s == 2.5
    assert "2.5 s" in caplog.text


async def test_statistics_count_what_travelled(target: str) -> None:
    """Counts and times of a session are there after its end."""
    latents = make_latents()
    async with FrameClient(target) as client, client.session(latents) as session:
        assert len([frame async for frame in session]) == 21
    counted = session.statistics
    assert (counted.num_latents, counted.latent_bytes) == (6, latents.nbytes)
    assert (counted.num_frames, counted.frame_bytes) == (21, 21 * 16 * 32 * 3)
    assert counted.first_frame_s is not None
    assert counted.last_frame_s is not None
    assert 0 < counted.open_s < counted.first_frame_s < counted.last_frame_s


async def test_info_and_locate(target: str) -> None:
    """The small calls give typed values; formats of a newer server are left out."""
    async with FrameClient(target) as client:
        info = await client.info()
        location = await client.locate("m")
    assert (info.version, info.device, info.pixel_formats, info.dtypes) == (
        "1.2",
        "fake",
        ("rgb24", "yuv420p"),
        ("float16",),
    )
    assert (info.models[0].exactness, info.models[0].receptive_latents) == ("full", None)
    assert (location.target, location.epoch, location.lease_s) == ("there/m", 7, 1.5)
