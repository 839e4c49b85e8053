"""A session against a server that was written from the generated stubs alone."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import (
    ConnectionLost,
    DataLoss,
    FrameClient,
    FramehaulError,
    InvalidLatents,
    InvalidRequest,
    NotFound,
    ProtocolError,
    Refused,
    ServerUnavailable,
    StreamFailed,
    Unsupported,
)
from tests.integration.client.fake_server import CHANNELS, Behaviour, expected_frames

pytestmark = pytest.mark.asyncio

RGB_SHAPE = (16, 32, 3)
YUV_SHAPE = (24, 32)


def make_latents(num_latents: int = 6) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).standard_normal((num_latents, CHANNELS, 2, 4)).astype(np.float16)


async def collect(client: FrameClient, latents: Any, **options: Any) -> np.ndarray[Any, Any]:
    async with client.session(latents, **options) as session:
        return np.stack([frame async for frame in session])


async def test_rgb_frames_arrive_whole_and_in_order(target: str, behaviour: Behaviour) -> None:
    """An array goes in; the generated servicer's frames come out, value by value."""
    latents = make_latents()
    async with FrameClient(target) as client:
        frames = await collect(client, latents)
    assert np.array_equal(frames, expected_frames(latents, RGB_SHAPE))
    assert np.array_equal(np.stack(behaviour.latents), latents)
    opened = behaviour.opens[0]
    assert (opened.mode, opened.num_latents, opened.dtype) == (pb.MODE_EXPLICIT, 6, pb.DATA_TYPE_FLOAT16)


async def test_yuv_frames_have_the_planes_shape(target: str) -> None:
    """yuv420p comes as [H * 3 / 2, W]."""
    latents = make_latents()
    async with FrameClient(target) as client:
        frames = await collect(client, latents, pixel_format="yuv420p")
    assert np.array_equal(frames, expected_frames(latents, YUV_SHAPE))


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


@pytest.mark.parametrize("dtype", ["float32", "float16"])
async def test_generated_servicer_reads_every_dtype(target: str, behaviour: Behaviour, dtype: str) -> None:
    """Latents keep their bits on the way."""
    latents = make_latents().astype(dtype)
    async with FrameClient(target) as client:
        await collect(client, latents)
    assert np.stack(behaviour.latents).tobytes() == latents.tobytes()


async def test_bfloat16_travels_as_bit_patterns(target: str, behaviour: Behaviour) -> None:
    """uint16 with dtype='bfloat16' is bfloat16 on the wire."""
    latents = np.arange(3 * CHANNELS * 2 * 4, dtype=np.uint16).reshape(3, CHANNELS, 2, 4)
    async with FrameClient(target) as client:
        await collect(client, latents, dtype="bfloat16")
    assert behaviour.opens[0].dtype == pb.DATA_TYPE_BFLOAT16
    assert np.array_equal(np.stack(behaviour.latents), latents)


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


# Leaving early


async def left_by_break(client: FrameClient) -> None:
    async with client.session(make_latents(30)) as session:
        async for _ in session:
            break


async def left_by_exception(client: FrameClient) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with client.session(make_latents(30)) as session:
            async for _ in session:
                raise ZeroDivisionError


async def left_by_cancel(client: FrameClient) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with client.session(make_latents(30)) as session:
            await anext(session)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def left_while_waiting(client: FrameClient) -> None:
    async def never() -> AsyncIterator[np.ndarray[Any, Any]]:
        yield make_latents(1)[0]
        await asyncio.Event().wait()

    async with client.session(never()) as session:
        await anext(session)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(session), 0.05)


@pytest.mark.parametrize("leave", [left_by_break, left_by_exception, left_by_cancel, left_while_waiting])
async def test_leaving_cancels_at_the_server(target: str, behaviour: Behaviour, leave: Any) -> None:
    """However a session is left, the server's handler ends at once."""
    async with FrameClient(target) as client:
        await leave(client)
        await asyncio.wait_for(behaviour.left.wait(), 2)
        assert behaviour.left_early


async def test_a_wait_that_is_cancelled_loses_no_frame(target: str) -> None:
    """A consumer may give up waiting and come back."""
    latents = make_latents(3)
    release = asyncio.Event()

    async def produce() -> AsyncIterator[np.ndarray[Any, Any]]:
        yield latents[0]
        await release.wait()
        yield latents[1]
        yield latents[2]

    async with FrameClient(target) as client, client.session(produce()) as session:
        frames = [await anext(session)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(session), 0.05)
        release.set()
        frames += [frame async for frame in session]
    assert np.array_equal(np.stack(frames), expected_frames(latents, RGB_SHAPE))


async def test_generators_are_closed_with_the_session(target: str) -> None:
    """A generator's `finally` runs when the session is left, on the loop or on its thread."""
    closed = []

    async def on_loop() -> AsyncIterator[np.ndarray[Any, Any]]:
        try:
            for latent in make_latents(30):
                yield latent
        finally:
            closed.append("loop")

    def on_thread() -> Iterator[np.ndarray[Any, Any]]:
        try:
            yield from make_latents(30)
        finally:
            closed.append("thread")

    async with FrameClient(target) as client:
        for produce in (on_loop, on_thread):
            async with client.session(produce()) as session:
                await anext(session)
    assert closed == ["loop", "thread"]


async def test_a_session_left_open_is_cancelled_with_a_warning(target: str, behaviour: Behaviour) -> None:
    """Closing the client ends its sessions, and says that one was forgotten."""
    with pytest.warns(ResourceWarning, match="left open"):  # noqa: PT031
        async with FrameClient(target) as client:
            session = client.session(make_latents(30))
            await session.__aenter__()
            await anext(session)
    await asyncio.wait_for(behaviour.left.wait(), 2)
    with pytest.raises(RuntimeError, match="not open"):
        await anext(session)


async def test_a_client_left_open_warns(target: str) -> None:
    """A connection that is dropped without closing says so."""
    client = FrameClient(target)
    await client.__aenter__()
    channel = client._channel
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del client
        gc.collect()
    assert any("never closed" in str(warning.message) for warning in caught)
    assert channel is not None
    await channel.close()


# What the caller gets wrong


async def test_the_producers_own_error_reaches_the_consumer(target: str, behaviour: Behaviour) -> None:
    """An exception in the latents' iterator is raised in the frames' loop, and the server is told."""

    async def produce() -> AsyncIterator[np.ndarray[Any, Any]]:
        yield make_latents(1)[0]
        raise ZeroDivisionError("the sampler broke")

    async with FrameClient(target) as client:
        with pytest.raises(ZeroDivisionError, match="sampler"):
            await collect(client, produce())
        await asyncio.wait_for(behaviour.left.wait(), 2)


async def test_no_latents_is_an_error_before_anything_is_sent(target: str, behaviour: Behaviour) -> None:
    """An empty iterator opens no session."""
    async with FrameClient(target) as client:
        with pytest.raises(InvalidLatents, match="at least one"):
            await collect(client, iter(()))
    assert not behaviour.opens


async def test_latents_of_another_shape_are_refused_by_index(target: str) -> None:
    """Every latent has the first one's geometry and dtype; the error names the latent."""
    good = make_latents(1)[0]
    async with FrameClient(target) as client:
        with pytest.raises(InvalidLatents, match=r"latent 1 is float16 \[4, 3, 4\]"):
            await collect(client, iter([good, np.zeros((CHANNELS, 3, 4), np.float16)]))
        with pytest.raises(InvalidLatents, match=r"latent 1 is float32"):
            await collect(client, iter([good, good.astype(np.float32)]))


@pytest.mark.parametrize(
    ("num_latents", "match"), [(9, r"ended after 6: num_latents=9"), (None, "")], ids=["too few", "unknown"]
)
async def test_announced_latents_must_come(target: str, num_latents: int | None, match: str) -> None:
    """Fewer latents than announced is an error; without an announcement any number will do."""
    async with FrameClient(target) as client:
        if num_latents is None:
            assert len(await collect(client, iter(make_latents()))) == 21
        else:
            with pytest.raises(InvalidLatents, match=match):
                await collect(client, iter(make_latents()), num_latents=num_latents)


async def test_no_more_latents_are_taken_than_announced(target: str, behaviour: Behaviour) -> None:
    """num_latents ends an endless iterator."""

    def produce() -> Iterator[np.ndarray[Any, Any]]:
        while True:
            yield make_latents(1)[0]

    async with FrameClient(target) as client:
        assert len(await collect(client, produce(), num_latents=3)) == 9
    assert len(behaviour.latents) == 3


async def test_a_session_is_entered_once(target: str) -> None:
    """A second use is a fault of the caller's."""
    async with FrameClient(target) as client:
        session = client.session(make_latents(1))
        async with session:
            pass
        with pytest.raises(RuntimeError, match="make a new one"):
            await session.__aenter__()
    with pytest.raises(RuntimeError, match="not connected"):
        client.session(make_latents(1))


# What the server says


REFUSALS = [
    (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
    (grpc.StatusCode.FAILED_PRECONDITION, InvalidRequest),
    (grpc.StatusCode.NOT_FOUND, NotFound),
    (grpc.StatusCode.UNIMPLEMENTED, Unsupported),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, Refused),
    (grpc.StatusCode.UNAVAILABLE, ServerUnavailable),
    (grpc.StatusCode.DATA_LOSS, DataLoss),
    (grpc.StatusCode.INTERNAL, StreamFailed),
    (grpc.StatusCode.DEADLINE_EXCEEDED, StreamFailed),
]


@pytest.mark.parametrize(("code", "error"), REFUSALS, ids=lambda value: getattr(value, "name", None))
async def test_a_refusal_keeps_the_servers_words(
    target: str, behaviour: Behaviour, code: grpc.StatusCode, error: type[FramehaulError]
) -> None:
    """Each status has its class, and the text names the server and its reason."""
    behaviour.refuse_open = (code, "model=nosuch: must be fake", ())
    async with FrameClient(target) as client:
        with pytest.raises(error, match="model=nosuch: must be fake") as caught:
            await collect(client, make_latents())
    assert type(caught.value) is error
    assert target in str(caught.value)


@pytest.mark.parametrize(("pushback", "retry_after_s"), [("300", 0.3), ("-1", None), ("soon", None), (None, None)])
async def test_a_refusal_says_when_to_come_back(
    target: str, behaviour: Behaviour, pushback: str | None, retry_after_s: float | None
) -> None:
    """The server's pushback is on the error."""
    trailers = () if pushback is None else (("grpc-retry-pushback-ms", pushback),)
    behaviour.refuse_open = (grpc.StatusCode.RESOURCE_EXHAUSTED, "64 sessions", trailers)
    async with FrameClient(target) as client:
        with pytest.raises(Refused) as caught:
            await collect(client, make_latents())
    assert caught.value.retry_after_s == retry_after_s


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
        await asyncio.wait_for(behaviour.left.wait(), 2)
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
    async with FrameClient(target) as client, client.session(latents) as session:
        with pytest.raises(ConnectionLost, match="worker lost"):  # noqa: PT012
            async for frame in session:
                frames.append(frame)  # noqa: PERF401
    assert np.array_equal(np.stack(frames), expected_frames(latents, RGB_SHAPE)[: len(frames)])


async def test_drain_and_queue_are_shown_and_the_stream_goes_on(
    target: str, behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that will stop says so: in the log and on the session; frames keep coming."""
    behaviour.extra = [
        pb.StreamResponse(queued=pb.Queued(position=3)),
        pb.StreamResponse(drain=pb.Drain(grace_ms=2500)),
    ]
    async with FrameClient(target) as client, client.session(make_latents()) as session:
        assert len([frame async for frame in session]) == 21
        assert session.drain_grace_s == 2.5
        assert session.queue_position is None
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


# A server that breaks the protocol, or damaged frames


def corrupt_payload(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.payload and response.frames.first_frame >= 5:
        response.payload = bytes([response.payload[0] ^ 1]) + response.payload[1:]
    return response


def lose_a_message(number: int, response: pb.StreamResponse) -> pb.StreamResponse | None:
    return None if response.frames.first_frame == 4 else response


def repeat_frames(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.frames.first_frame == 4:
        response.frames.first_frame = 1
    return response


def cut_payload(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    response.payload = response.payload[:-1]
    return response


def drop_checksums(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("frames"):
        del response.frames.crc32c[:]
    return response


def claim_no_frames(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("frames"):
        response.frames.num_frames = 0
    return response


def miscount_frames(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("done"):
        response.done.num_frames += 1
    return response


def miscount_latents(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("done"):
        response.done.num_latents -= 1
    return response


def forget_opened(number: int, response: pb.StreamResponse) -> pb.StreamResponse | None:
    return pb.StreamResponse(queued=pb.Queued(position=1)) if number == 0 else response


def open_other_format(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.opened.pixel_format = pb.PIXEL_FORMAT_YUV420P
    return response


def open_no_pixels(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.opened.height = 0
    return response


def open_other_size(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.opened.frame_bytes += 1
    return response


def done_at_once(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.done.num_frames = 0
    return response


def overfill(number: int, response: pb.StreamResponse) -> pb.StreamResponse:
    if response.HasField("opened"):
        response.opened.max_window_frames = 2
        response.opened.min_window_frames = 2
    return response


FAULTS = [
    (corrupt_payload, DataLoss, "crc32c"),
    (lose_a_message, DataLoss, "must come next"),
    (repeat_frames, DataLoss, "must come next"),
    (cut_payload, DataLoss, "payload of"),
    (drop_checksums, DataLoss, "checksums"),
    (claim_no_frames, DataLoss, "num_frames=0"),
    (miscount_frames, DataLoss, "the server sent 22 frames: 21 arrived"),
    (miscount_latents, DataLoss, "took 5 latents: 6 were sent"),
    (forget_opened, ProtocolError, "isn't Opened"),
    (open_other_format, ProtocolError, "pixel_format=2: rgb24"),
    (open_no_pixels, ProtocolError, "height=0"),
    (open_other_size, ProtocolError, "frame_bytes="),
    (done_at_once, ProtocolError, "Done after latent 0"),
    (overfill, ProtocolError, "the window ends at"),
]


@pytest.mark.parametrize(("edit", "error", "match"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
async def test_a_fault_of_the_server_is_found(
    target: str, behaviour: Behaviour, edit: Any, error: type[FramehaulError], match: str
) -> None:
    """Nothing wrong is handed out as a frame: the session fails, and names what is wrong."""
    behaviour.edit = edit
    async with FrameClient(target) as client:
        with pytest.raises(error, match=match) as caught:
            await collect(client, make_latents())
        assert type(caught.value) is error
        await asyncio.wait_for(behaviour.left.wait(), 2)


async def test_an_end_without_done_is_an_error(target: str, behaviour: Behaviour) -> None:
    """OK alone doesn't make a clip whole."""
    behaviour.end_after_frames = 5
    async with FrameClient(target) as client:
        with pytest.raises(ProtocolError, match="after frame 5 without Done"):
            await collect(client, make_latents())


async def test_a_server_that_goes_away_is_a_lost_connection(behaviour: Behaviour) -> None:
    """A server's death in mid-stream is told apart from one that was never there."""
    from tests.integration.client.fake_server import fake_server

    behaviour.stop_after_frames = 5
    async with fake_server(behaviour) as target:
        client = FrameClient(target)
        await client.__aenter__()
        session = await client.session(make_latents(20)).__aenter__()
        for _ in range(5):
            await anext(session)
        await behaviour.stopped.wait()
    try:
        with pytest.raises(FramehaulError) as caught:
            await anext(session)
        assert isinstance(caught.value, ConnectionLost | StreamFailed)
    finally:
        await session.aclose()
        await client.aclose()
