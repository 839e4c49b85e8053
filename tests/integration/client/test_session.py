"""A session against a server that was written from the generated stubs alone: frames, grants and windows."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient, InvalidLatents, LatentsFile
from framehaul_client.transport import exchange
from tests.support.client_command import make_file
from tests.support.clips import collect
from tests.support.fake_server import CHANNELS, RGB_SHAPE, YUV_SHAPE, Behaviour, expected_frames, make_latents

pytestmark = pytest.mark.asyncio


async def test_rgb_frames_arrive_whole_and_in_order(target: str, behaviour: Behaviour) -> None:
    """An array goes in; the generated servicer's frames come out, value by value."""
    latents = make_latents()
    async with FrameClient(target) as client:
        frames = await collect(client, latents)
    assert np.array_equal(frames, expected_frames(latents, RGB_SHAPE))
    assert np.array_equal(np.stack(behaviour.latents), latents)
    opened = behaviour.opens[0]
    assert (opened.mode, opened.num_latents, opened.dtype) == (pb.MODE_EXPLICIT, 6, pb.DATA_TYPE_FLOAT16)


async def test_batches_are_the_messages(target: str, behaviour: Behaviour) -> None:
    """Batches give the same frames as single ones, with the index of the first."""
    latents = make_latents()
    async with FrameClient(target) as client, client.session(latents) as session:
        batches = [batch async for batch in session.batches()]
    assert max(len(batch) for batch in batches) == behaviour.frames_to_a_message
    assert [batch.first_frame for batch in batches] == list(np.cumsum([0] + [len(batch) for batch in batches])[:-1])
    assert np.array_equal(np.concatenate([batch.frames for batch in batches]), expected_frames(latents, RGB_SHAPE))


async def test_single_frames_and_batches_mix(target: str) -> None:
    """After a single frame, the batch is the rest of its message."""
    latents = make_latents()
    async with FrameClient(target) as client, client.session(latents) as session:
        assert await session.next_batch() is not None
        single = await anext(session)
        rest = await session.next_batch()
        assert rest is not None
        assert rest.first_frame == 2
        assert len(rest) == 2
        expected = expected_frames(latents, RGB_SHAPE)
        assert np.array_equal(single, expected[1])
        assert np.array_equal(rest.frames, expected[2:4])


async def test_frames_are_read_only_views(target: str) -> None:
    """Frames lie in the received message: writing to them must fail."""
    async with FrameClient(target) as client, client.session(make_latents()) as session:
        frame = await anext(session)
    assert not frame.flags.writeable
    assert not frame.flags.owndata


@pytest.mark.parametrize(
    ("latents", "dtype", "told"),
    [
        (make_latents().astype(np.float32), None, pb.DATA_TYPE_FLOAT32),
        (
            np.arange(3 * CHANNELS * 2 * 4, dtype=np.uint16).reshape(3, CHANNELS, 2, 4),
            "bfloat16",
            pb.DATA_TYPE_BFLOAT16,
        ),
    ],
)
async def test_latents_keep_their_bits_on_the_way(
    target: str, behaviour: Behaviour, latents: np.ndarray[Any, Any], dtype: str | None, told: int
) -> None:
    """Of every dtype; uint16 with dtype='bfloat16' is bfloat16 on the wire."""
    async with FrameClient(target) as client:
        await collect(client, latents, dtype=dtype)
    assert behaviour.opens[0].dtype == told
    assert np.stack(behaviour.latents).tobytes() == latents.tobytes()


async def test_async_latents_are_made_while_earlier_ones_are_decoded(target: str) -> None:
    """A generator that waits for the frames of its last latent gets them: nothing is held back for more input."""
    latents = make_latents(4)
    frames_seen = 0
    arrived = asyncio.Event()

    async def produce() -> AsyncIterator[np.ndarray[Any, Any]]:
        for index, latent in enumerate(latents):
            yield latent
            while frames_seen < 1 + 4 * index:
                arrived.clear()
                await arrived.wait()

    async with FrameClient(target) as client, client.session(produce()) as session:
        async for _ in session:
            frames_seen += 1
            arrived.set()
    assert frames_seen == 13


async def test_plain_iterators_run_on_one_other_thread(target: str) -> None:
    """A blocking iterator doesn't block the event loop, and sees the same thread each time."""
    import threading

    threads = set()

    def produce() -> Iterator[np.ndarray[Any, Any]]:
        for latent in make_latents():
            threads.add(threading.current_thread().name)
            yield latent

    async with FrameClient(target) as client:
        frames = await collect(client, produce())
    assert len(frames) == 21
    assert len(threads) == 1
    assert threading.current_thread().name not in threads


async def test_the_grant_is_never_exceeded(target: str, behaviour: Behaviour) -> None:
    """The producer is asked only when the server has room, and never sends beyond latents_until."""
    behaviour.budget = 2
    behaviour.stop_after_frames = 1
    pulled = 0

    async def produce() -> AsyncIterator[np.ndarray[Any, Any]]:
        nonlocal pulled
        for latent in make_latents(20):
            pulled += 1
            yield latent

    async with FrameClient(target) as client, client.session(produce()) as session:
        await anext(session)
        await behaviour.stopped.wait()
        waiting = asyncio.create_task(anext(session))
        await asyncio.wait({waiting}, timeout=0.2)
        # One frame is out, so latents below 1 + 2 may come: the third is sent, a fourth isn't asked for.
        assert (pulled, len(behaviour.latents)) == (3, 3)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize(("side", "num_with_open"), [(4, 1), (256, 0)])
async def test_the_first_latent_travels_with_the_opening_if_it_is_small(
    target: str, behaviour: Behaviour, side: int, num_with_open: int
) -> None:
    """Up to 256 KiB: it may wait in the server's queue. From an array, or from an iterator, which is read once."""
    clip = np.ones((3, CHANNELS, side, side), np.float16)
    for latents in (clip, iter(clip)):
        async with FrameClient(target) as client, client.session(latents) as session:
            assert await session.next_batch() is not None
        assert behaviour.num_first_bytes == num_with_open * clip[0].nbytes
        assert session.statistics.latent_bytes >= clip[0].nbytes


async def test_large_blocks_are_split_at_the_grant(target: str, behaviour: Behaviour) -> None:
    """One [T, C, h, w] array goes out in as many messages as the grant asks for."""
    behaviour.budget = 2
    latents = make_latents(9)

    async def produce() -> AsyncIterator[np.ndarray[Any, Any]]:
        yield latents

    async with FrameClient(target) as client:
        frames = await collect(client, produce())
    assert np.array_equal(frames, expected_frames(latents, RGB_SHAPE))
    assert behaviour.max_ahead <= 2


async def test_consumption_not_arrival_opens_the_window(target: str, behaviour: Behaviour) -> None:
    """A consumer that stops gets no more than its window, and loses nothing when it goes on."""
    latents = make_latents(12)
    async with FrameClient(target) as client, client.session(latents, window_frames=6) as session:
        first = await anext(session)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(behaviour.left.wait(), 0.2)
        assert behaviour.num_sent <= 6
        assert not behaviour.acks
        rest = [frame async for frame in session]
    assert np.array_equal(np.stack([first, *rest]), expected_frames(latents, RGB_SHAPE))
    assert behaviour.min_room >= 0


@pytest.mark.parametrize("window_frames", [1, 4, 5, 7, 32])
async def test_a_window_smaller_than_the_clip_completes(target: str, behaviour: Behaviour, window_frames: int) -> None:
    """Whatever the window, acknowledgements keep the frames coming; the last one is acknowledged too."""
    behaviour.wait_for_all_acks = True
    latents = make_latents(10)
    async with FrameClient(target) as client:
        frames = await collect(client, latents, window_frames=window_frames)
    assert len(frames) == 37
    assert behaviour.acks[-1].next_frame == 37
    assert behaviour.min_room >= 0


async def test_a_fast_stream_has_few_acknowledgements(
    target: str, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first, an idle consumer's waits for what comes at once: there is one for each quarter of the window."""
    monkeypatch.setattr(exchange, "_ACKNOWLEDGE_S", 3600.0)
    behaviour.frames_to_a_message = 1
    async with FrameClient(target) as client:
        await collect(client, make_latents(10), window_frames=32)
    assert len(behaviour.acks) <= 1 + 36 // 8 + 1


@pytest.mark.parametrize(("window_frames", "delay_s"), [(7, 3600.0), (32, 0.001)])
async def test_an_idle_consumer_acknowledges_all_it_has(
    target: str, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch, window_frames: int, delay_s: float
) -> None:
    """At once in a narrow window, which the server may need whole; else in a while."""
    monkeypatch.setattr(exchange, "_ACKNOWLEDGE_S", delay_s)
    behaviour.stop_after_frames, behaviour.frames_to_a_message = 3, 1
    async with FrameClient(target) as client, client.session(make_latents(), window_frames=window_frames) as session:
        for _ in range(3):
            await anext(session)
        waiting = asyncio.create_task(session.next_batch())
        await behaviour.all_acked.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_acknowledgements_pass_waiting_latents(target: str, behaviour: Behaviour) -> None:
    """Latents that wait for room, in a flood, don't hold up acknowledgements."""
    behaviour.budget = 1
    latents = make_latents(40)
    async with FrameClient(target) as client:
        frames = await collect(client, latents, window_frames=4)
    assert len(frames) == 1 + 39 * 4
    assert behaviour.max_ahead <= 1


async def test_sessions_share_a_connection(target: str) -> None:
    """Sessions of one client run side by side, each with its own frames."""
    first, second = make_latents(8), make_latents(8)[::-1].copy()
    async with FrameClient(target) as client:
        frames = await asyncio.gather(collect(client, first), collect(client, second, pixel_format="yuv420p"))
    assert np.array_equal(frames[0], expected_frames(first, RGB_SHAPE))
    assert np.array_equal(frames[1], expected_frames(second, YUV_SHAPE))


LATENTS = make_latents()


@pytest.mark.parametrize(
    ("latents", "layout"),
    [(LATENTS[None], "TCHW"), (LATENTS.swapaxes(0, 1), "CTHW"), (LATENTS.swapaxes(0, 1)[None], None)],
)
async def test_arrays_of_other_layouts(target: str, behaviour: Behaviour, latents: Any, layout: str | None) -> None:
    """They are sent latent by latent, and their number is announced."""
    async with FrameClient(target) as client:
        await collect(client, latents, layout=layout)
    assert np.array_equal(np.stack(behaviour.latents), LATENTS)
    assert behaviour.opens[0].num_latents == 6


@pytest.mark.parametrize("window_frames", [1, 32])
@pytest.mark.parametrize("num_frames", [18, 21])
async def test_the_last_latents_filling_is_not_handed_out(
    target: str, behaviour: Behaviour, num_frames: int, window_frames: int
) -> None:
    """The server decodes whole latents; the rest is dropped here, and acknowledged with the others."""
    behaviour.wait_for_all_acks = True
    behaviour.frames_to_a_message = 1
    async with (
        FrameClient(target) as client,
        client.session(LATENTS, num_frames=num_frames, window_frames=window_frames) as session,
    ):
        assert session.num_frames == num_frames
        frames = np.stack([frame async for frame in session])
        assert session.statistics.num_frames == num_frames
    assert np.array_equal(frames, expected_frames(LATENTS, RGB_SHAPE)[:num_frames])
    assert behaviour.acks[-1].next_frame == 21


async def test_a_number_of_frames_is_held_against_the_clip(target: str, tmp_path: Path) -> None:
    """It needs the number of latents, and its last one; a file has its own number and layout."""
    async with FrameClient(target) as client:
        with pytest.raises(InvalidLatents, match=r"num_frames=17 .*: 6 latents of fake have 18\.\.21"):
            await collect(client, LATENTS, num_frames=17)
        with pytest.raises(ValueError, match="num_frames=3: must come with num_latents"):
            client.session(iter(LATENTS), num_frames=3)
        make_file(tmp_path / "a.safetensors", frames="20")
        with LatentsFile(tmp_path / "a.safetensors") as file:
            assert len(await collect(client, file)) == 20
            with pytest.raises(ValueError, match="layout=TCHW: must be given to LatentsFile"):
                client.session(file, layout="TCHW")
