"""Sessions that a server without a place keeps in its queue."""

import asyncio
import json
from pathlib import Path

import grpc
import numpy as np
import pytest

from framehaul_client import ConnectionLost, FrameClient
from tests.support.client_command import make_file, start_client
from tests.support.clips import collect
from tests.support.fake_server import RGB_SHAPE, Behaviour, expected_frames, make_latents

pytestmark = pytest.mark.asyncio
GONE = (grpc.StatusCode.UNAVAILABLE, "the server is draining: open the session elsewhere", ())


async def test_the_positions_are_told_and_the_session_goes_on(target: str, behaviour: Behaviour) -> None:
    """By the callback and on the session; the time is counted apart."""
    behaviour.queue = [[3, 1]]
    told: list[int] = []

    def note(position: int) -> None:
        told.append(position)
        assert session.queue_position == position
        if position == 1:
            behaviour.let_in.set()

    latents = make_latents()
    async with FrameClient(target) as client:
        session = client.session(latents, on_queued=note)
        assert session.queue_position is None
        async with session:
            assert session.queue_position is None
            frames = np.stack([frame async for frame in session])
    assert told == [3, 1]
    assert np.array_equal(frames, expected_frames(latents, RGB_SHAPE))
    statistics = session.statistics
    assert statistics.queued_s > 0
    assert statistics.first_frame_s is not None
    assert 0 < statistics.open_s < statistics.first_frame_s


async def test_a_link_cut_in_the_queue_is_replaced(target: str, behaviour: Behaviour) -> None:
    """At the end of the queue, as a new session; where nothing is to be tried again, the error is told."""
    behaviour.queue = [[2, GONE], [5, 4]]
    behaviour.let_in.set()
    told: list[int] = []
    latents = make_latents()
    async with FrameClient(target) as client:
        frames = await collect(client, latents, on_queued=told.append, retry_for_s=20.0)
        assert np.array_equal(frames, expected_frames(latents, RGB_SHAPE))
        assert told == [2, 5, 4]
        behaviour.queue = [[1, GONE]]
        with pytest.raises(ConnectionLost, match="draining"):
            await collect(client, latents)


async def test_a_session_is_left_while_it_is_queued(target: str, behaviour: Behaviour) -> None:
    """By cancelling whoever enters it: the server hears at once."""
    behaviour.queue = [[1]]
    queued = asyncio.Event()

    async def enter() -> None:
        async with client.session(make_latents(), on_queued=lambda _: queued.set()):
            raise AssertionError("never opened")

    async with FrameClient(target) as client:
        entering = asyncio.create_task(enter())
        await asyncio.wait_for(queued.wait(), 60)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        await asyncio.wait_for(behaviour.left.wait(), 60)
    assert behaviour.left_early


async def test_an_error_of_the_callback_is_the_callers(target: str, behaviour: Behaviour) -> None:
    """And ends the session."""
    behaviour.queue = [[1]]

    def fail(_: int) -> None:
        raise ZeroDivisionError

    async with FrameClient(target) as client:
        with pytest.raises(ZeroDivisionError):
            await collect(client, make_latents(), on_queued=fail)
        await asyncio.wait_for(behaviour.left.wait(), 60)


async def test_the_command_says_where_it_stands(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """A line for each position on stderr; the report has the time, which frames a second don't count."""
    behaviour.queue = [[2, 1]]
    make_file(tmp_path / "a.safetensors")
    arguments = ("stream", tmp_path / "a.safetensors", "--out", tmp_path / "v.mkv", "--target", target)
    process = await start_client(*arguments, "--json")
    assert process.stderr is not None
    for position in (2, 1):
        line = await asyncio.wait_for(process.stderr.readline(), 60)
        assert line == b"queued, position %d\n" % position
    waited_s = 0.3
    await asyncio.sleep(waited_s)
    behaviour.let_in.set()
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    report = json.loads(out)
    timeline = report["timeline"]
    assert timeline["queue_s"] >= waited_s
    assert all(seconds >= 0 for seconds in timeline.values())
    assert sum(timeline.values()) == pytest.approx(report["total_s"], abs=1e-4)
    assert report["stream_s"] < report["total_s"] - timeline["queue_s"]
