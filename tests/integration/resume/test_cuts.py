"""The link is cut between the reference client and a real server: every frame arrives once, in order, unchanged."""

import asyncio

import numpy as np
import pytest

from framehaul_client import FrameClient
from framehaul_client.transport import connection
from tests.integration.resume.conftest import decode_in_steps, small_clip
from tests.support.clips import FRAMES_OF_A_LATENT
from tests.support.proxy import Direction, FaultProxy
from tests.support.server_process import ServerProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
NUM_LATENTS = 6


@pytest.mark.parametrize("direction", Direction, ids=lambda direction: direction.name.lower())
async def test_a_cut_at_every_message_loses_and_doubles_nothing(server: ServerProcess, direction: Direction) -> None:
    """Right before each message of a clip in turn: the one that opens, latents, acknowledgements, frames, Done."""
    clip = small_clip(NUM_LATENTS)
    whole = await decode_in_steps(server.target, clip)
    assert len(whole) == FRAMES_OF_A_LATENT * NUM_LATENTS
    async with FaultProxy(server.target) as proxy:
        # One latent a message, so that there are many.
        assert np.array_equal(await decode_in_steps(proxy.target, list(clip)), whole)
        num_messages = proxy.num_messages[direction]
    assert num_messages > NUM_LATENTS
    for message in range(num_messages):
        async with FaultProxy(server.target) as proxy:
            proxy.cut_at(direction, message)
            frames = await decode_in_steps(proxy.target, list(clip))
            assert np.array_equal(frames, whole), f"cut at message {message} {direction.value}"


async def test_a_link_that_breaks_again_and_again_only_takes_time(server: ServerProcess) -> None:
    """Cut at each third message, on each connection that follows."""
    clip = small_clip(30)
    whole = await decode_in_steps(server.target, clip)
    async with FaultProxy(server.target) as proxy:
        for message in range(4, 40, 6):
            proxy.cut_at(Direction.TO_CLIENT, message)
        frames = await decode_in_steps(proxy.target, clip)
        assert proxy.num_cuts >= 3
    assert np.array_equal(frames, whole)


async def test_a_half_open_link_is_left_and_its_connection_fenced(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing arrives, and nothing says so; the client's ping finds out, and the server ends the old call first."""
    monkeypatch.setattr(connection, "_KEEPALIVE_MS", 5_000)  # the shortest that the server takes
    monkeypatch.setattr(connection, "_PING_TIMEOUT_MS", 500)
    clip = small_clip(20)
    whole = await decode_in_steps(server.target, clip)
    async with (
        FaultProxy(server.target) as proxy,
        FrameClient(proxy.target) as client,
        client.session(clip, window_frames=8) as session,
    ):
        frames = [await anext(session) for _ in range(6)]
        proxy.freeze()
        frames += [frame async for frame in session]
        assert session.statistics.num_reconnects == 1
    assert np.array_equal(np.stack(frames), whole)


async def test_several_sessions_on_one_link_are_resumed_each_on_its_own(server: ServerProcess) -> None:
    """One cut breaks them all, at different places."""
    clips = [small_clip(12, seed) for seed in range(4)]
    whole = [await decode_in_steps(server.target, clip) for clip in clips]
    async with FaultProxy(server.target) as proxy, FrameClient(proxy.target) as client:
        for message in range(6, 60, 9):
            proxy.cut_at(Direction.TO_CLIENT, message)

        async def run(clip: np.ndarray) -> np.ndarray:
            async with client.session(clip, window_frames=8) as session:
                return np.stack([frame async for frame in session])

        decoded = await asyncio.gather(*(run(clip) for clip in clips))
        assert proxy.num_cuts >= 2
    for frames, expected in zip(decoded, whole, strict=True):
        assert np.array_equal(frames, expected)


async def test_leaving_a_session_is_not_losing_it(server: ServerProcess) -> None:
    """The server drops it at once, and does not keep it for its resume window."""
    server.expect_idle()
    async with FrameClient(server.target) as client, client.session(small_clip(20), window_frames=8) as session:
        await anext(session)
        assert server.load().sessions == 1
    wait_until(lambda: server.load().sessions == 0, "the session is dropped")
    assert server.session_ends()[-1]["cause"] == "cancelled"
