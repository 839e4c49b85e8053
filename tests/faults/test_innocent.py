"""Sessions that kill workers, beside innocent ones that the same workers are at work for: only the guilty are ended.

Chunks have one latent, so that every run cuts clips alike and frames can be compared bit for bit.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from crc32c import crc32c

from framehaul_client import FrameClient, StreamFailed
from framehaul_pipeline.models.model import TINY, TINY_SPEC
from framehaul_pipeline.supervision.supervisor import WorkerState
from framehaul_server.session import decoding
from tests.faults.chunks import decode_in
from tests.faults.harm import Harm, harmful
from tests.faults.test_chunk_life import harmful_latent
from tests.faults.worker_loss import HARM_AT, clip_with, noted_deaths
from tests.support.call import CHANNEL_OPTIONS, AsyncCall
from tests.support.clips import Clip, make_clip, opening
from tests.support.running_app import RunningApp, running_app
from tests.support.server_process import SAME_CHUNKS
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
NUM_LATENTS = 24
NUM_BEFORE = 2
"""Latents of each session before the harm."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[RunningApp]:
    async with running_app("--max-restarts", "1000", *SAME_CHUNKS, models=(harmful(TINY),)) as running:
        yield running


def some_clips(count: int) -> list[Clip]:
    return [make_clip(NUM_LATENTS, seed=number) for number in range(count)]


async def start(stream: AsyncCall, clip: Clip) -> None:
    """Open a session; a worker that takes it over later has something to decode again."""
    await stream.send(clip[:NUM_BEFORE].tobytes(), open=opening(normalized=False))
    await stream.read_frames(TINY_SPEC.num_frames(NUM_BEFORE))


async def finish(stream: AsyncCall, clip: Clip) -> None:
    """Send the rest of the clip and take all frames."""
    await stream.send(clip[NUM_BEFORE:].tobytes(), end_of_latents=True)
    await stream.read_to_end()


async def expect_ended(guilty: AsyncCall) -> None:
    """As killing workers is ended, with the frames that came before."""
    code, details = await guilty.status()
    assert (code, guilty.num_frames) == (grpc.StatusCode.ABORTED, TINY_SPEC.num_frames(NUM_BEFORE))
    assert "three worker processes died" in details


async def expect_whole(app: RunningApp, stream: AsyncCall, clip: Clip) -> None:
    """Every frame came once, and as a worker decodes it that nothing disturbs."""
    undisturbed = await decode_in(app, TINY_SPEC, clip, (1,) * (NUM_LATENTS - 1))
    assert stream.frames == [crc32c(frame.tobytes()) for frame in undisturbed]


async def do_harm(app: RunningApp, *, num_guilty: int, num_innocent: int) -> list[frozenset[int]]:
    """One after the other does its harm, and only they are ended; gives all deaths."""
    await app.ready()
    app.remember()
    clips = some_clips(num_guilty + num_innocent)
    async with grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as channel:
        streams = [AsyncCall(channel) for _ in clips]
        for stream, clip in zip(streams, clips, strict=True):
            await start(stream, clip)
        guilty = streams[:num_guilty]
        innocent = list(zip(streams[num_guilty:], clips[num_guilty:], strict=True))
        await eventually(lambda: not app.at_work(), app.at_work)
        with noted_deaths() as deaths:
            await guilty[0].send(harmful_latent(Harm.DIE_BESIDE))
            others = asyncio.gather(*(finish(stream, clip) for stream, clip in innocent))
            await expect_ended(guilty[0])
            for stream in guilty[1:]:
                await stream.send(harmful_latent(Harm.DIE_BESIDE))
                await expect_ended(stream)
            await others
        await app.ready()
        for stream, clip in innocent:
            await expect_whole(app, stream, clip)
    return deaths


async def test_one_guilty_and_three_innocent(app: RunningApp) -> None:
    """The first death can't tell who it was, those that follow do."""
    first, *others = await do_harm(app, num_guilty=1, num_innocent=3)
    assert len(first) > 1
    assert [len(noted) for noted in others] == [1, 1, 1]
    await app.expect_idle()


async def test_two_guilty_and_two_innocent(app: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one does its harm while an innocent one is a suspect of the first one's: not beside that.

    Two deaths tell here, so that fewer workers are started.
    """
    monkeypatch.setattr(decoding, "_DEATHS_ALONE", 2)
    deaths = await do_harm(app, num_guilty=2, num_innocent=2)
    assert len(deaths[0]) > 1
    assert [len(noted) for noted in deaths].count(1) >= 4
    await app.expect_idle()


async def kill_at_work(app: RunningApp) -> None:
    """Kill the worker from outside, as soon as it is at work for anybody."""
    await app.ready()
    await eventually(lambda: bool(app.at_work()), app.at_work)
    os.kill(app.supervisor.worker_pid, signal.SIGKILL)
    await eventually(lambda: app.supervisor.state is not WorkerState.READY, lambda: app.supervisor.state)


async def test_two_kills_from_outside_end_nobody(app: RunningApp) -> None:
    """One right after the other, and both at the work of one session alone."""
    await app.ready()
    app.remember()
    (clip,) = some_clips(1)
    async with grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as channel:
        stream = AsyncCall(channel)
        await start(stream, clip)
        await eventually(lambda: not app.at_work(), app.at_work)
        rest = asyncio.create_task(finish(stream, clip))
        for _ in range(2):
            await kill_at_work(app)
        await rest
    await app.ready()
    await expect_whole(app, stream, clip)
    await app.expect_idle()


async def stream_by_client(app: RunningApp, clip: Clip) -> tuple[int, str]:
    """How many frames the reference client gets, and what it says in the end.

    It sends the harmful latent once it has all frames before it. A frame that the second worker was the first to
    publish would be progress, and let a fourth one die.
    """
    num_frames = 0
    all_before = asyncio.Event()

    async def produce() -> AsyncIterator[Clip]:
        for index, latent in enumerate(clip):
            if index == HARM_AT:
                await all_before.wait()
            yield latent

    try:
        async with FrameClient(app.target) as client, client.session(produce(), window_frames=16) as session:
            async for _ in session:
                num_frames += 1
                if num_frames == TINY_SPEC.num_frames(HARM_AT):
                    all_before.set()
    except StreamFailed as error:
        return num_frames, str(error)
    return num_frames, ""


async def test_the_reference_client_does_not_try_again(app: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a new session for each three workers (two here) it would use up the server's restarts, and end it."""
    monkeypatch.setattr(decoding, "_DEATHS_ALONE", 2)
    await app.ready()
    app.remember()
    epoch = app.supervisor.epoch
    num_frames, said = await stream_by_client(app, clip_with(Harm.KILL_DECODING))
    assert "three worker processes died while they decoded this session" in said
    assert num_frames == TINY_SPEC.num_frames(HARM_AT)
    await app.ready()
    assert app.supervisor.epoch == epoch + 2
    await app.expect_idle()
