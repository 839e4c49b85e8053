"""Whole sessions with a stand-in worker: any chunking of latents, any acknowledgements, any lookahead, any tiles; and
clients that send anything at all."""

import asyncio

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import AtWork, PipelineError, WorkerLost
from framehaul_pipeline.spec import DecoderSpec
from framehaul_server.core.recorder import Recorder
from framehaul_server.errors import ConnectionLost, ServerError
from framehaul_server.rpc.status import status_of
from framehaul_server.rpc.synthetic import make_latents
from framehaul_server.session.session import Session
from tests.support.fakes import (
    ANYBODY,
    FRAME_BYTES,
    LATENT_BYTES,
    SPEC,
    FakeConnection,
    FakeWorker,
    frame,
    latents,
    opening,
    record,
    request,
    rules,
)


async def explicit_session(
    messages: list[int], spec: DecoderSpec, window_frames: int, acks: list[int], max_message_bytes: int
) -> FakeConnection:
    """Play a well-behaved EXPLICIT client; returns what it got."""
    worker = FakeWorker(spec)
    opened = opening(mode=pb.MODE_EXPLICIT, window_frames=window_frames, max_message_bytes=max_message_bytes)
    connection = FakeConnection()
    session_rules = rules(spec=spec, window_bytes=16 * FRAME_BYTES, latent_bytes=0)
    session = Session(request(open=opened), worker, session_rules, record(), ANYBODY, Recorder(0))
    task = asyncio.ensure_future(session.run(connection))
    waiting, num_sent, granted, acknowledged = list(messages), 0, 0, 0
    limits = max(16, spec.most_frames(1)) + 4
    while not task.done():
        await asyncio.sleep(0)
        granted = max(granted, *(each.header.latents_until for each in connection.responses), 0)
        while waiting and num_sent + waiting[0] <= granted:
            num_sent += waiting[0]
            connection.send(request(latents(waiting.pop(0)), end_of_latents=not waiting))
        received = len(connection.frames())
        handle = worker.handles[0] if worker.handles else None
        if handle is not None:
            assert handle.num_published - acknowledged <= limits
        if received > acknowledged:
            acknowledged = min(received, acknowledged + acks[received % len(acks)])
            connection.send(request(ack=pb.Ack(next_frame=acknowledged, window_frames=window_frames)))
    assert (await task).error is None
    return connection


@settings(max_examples=60)
@given(
    messages=st.lists(st.integers(1, 8), min_size=1, max_size=12),
    ahead=st.integers(0, 2).map(lambda latents: {"lookahead_latents": latents})
    | st.integers(1, 4).map(lambda latents: {"lookahead_latents": latents, "drains": True})
    | st.sampled_from([(5, 3), (3, 1), (3, 2)]).map(
        lambda tile: {"lookahead_latents": tile[0] - 1, "tile_latents": tile[0], "tile_stride_latents": tile[1]}
    ),
    window_frames=st.integers(0, 40),
    acks=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    frames_to_a_message=st.integers(1, 5),
)
def test_an_explicit_session_completes_with_every_frame_once_and_in_order(
    messages: list[int], ahead: dict[str, int], window_frames: int, acks: list[int], frames_to_a_message: int
) -> None:
    max_message_bytes = 64 + frames_to_a_message * (FRAME_BYTES + 4)
    spec = msgspec.structs.replace(SPEC, first_frames=1, **ahead)
    connection = asyncio.run(
        asyncio.wait_for(explicit_session(messages, spec, window_frames, acks, max_message_bytes), 60)
    )
    num_frames = 1 + 4 * (sum(messages) - 1)
    assert connection.frames() == [frame(index) for index in range(num_frames)]
    assert connection.done() == pb.Done(num_frames=num_frames, num_latents=sum(messages))
    assert all(len(raw) <= max_message_bytes for raw in connection.raw if len(raw) > 200)


SMALL = st.integers(0, 12)
OPENS = st.sampled_from(
    [
        opening(),
        opening(mode=pb.MODE_EXPLICIT, window_frames=4),
        opening(mode=pb.MODE_EXPLICIT, num_latents=3),
        opening(num_latents=2, max_message_bytes=1 << 20),
        opening(model="other"),
    ]
)
PAYLOADS = st.one_of(
    st.integers(1, 9).map(latents),
    st.integers(1, 3).map(lambda count: b"\xff" * (count * LATENT_BYTES)),
    st.binary(max_size=LATENT_BYTES),
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "open": OPENS,
        "ack": st.builds(pb.Ack, next_frame=SMALL, window_frames=SMALL),
        "synthetic": st.builds(
            pb.Synthetic, num_latents=SMALL, height=st.sampled_from([8, 9]), width=st.just(12), seed=SMALL
        ),
        "index": SMALL,
        "num_latents": SMALL,
        "crc32c": st.sampled_from([0, 1]),
        "end_of_latents": st.booleans(),
        "cancel": st.just(True),
    },
)
MESSAGES = st.tuples(FIELDS, st.one_of(st.just(b""), PAYLOADS))
STEPS = st.one_of(
    MESSAGES, st.sampled_from(["half-close", "worker dies", "client blocks", "client reads", "write fails"])
)


Message = tuple[dict[str, object], bytes]


async def any_session(first: Message, steps: list[str | Message]) -> Exception | None:
    """Play `steps`, then leave; returns what ended the session, and checks that all was given back."""
    before = asyncio.all_tasks()
    worker, connection = FakeWorker(), FakeConnection()
    session_rules = rules(window_bytes=4 * FRAME_BYTES, latent_bytes=0)
    try:
        opening_request = request(first[1], **first[0])
        served, opening_request = make_latents(connection, opening_request, session_rules.opening)
        session = Session(opening_request, worker, session_rules, record(), ANYBODY, Recorder(0))
    except (PipelineError, ServerError) as error:
        return error
    task = asyncio.ensure_future(session.run(served))
    for step in steps:
        for _ in range(5):
            await asyncio.sleep(0)
        match step:
            case "half-close":
                connection.send(None)
            case "worker dies":
                worker.die(WorkerLost(at_work=AtWork.ALONE))
            case "client blocks":
                connection.open_gate.clear()
            case "client reads":
                connection.open_gate.set()
            case "write fails":
                connection.write_error = ConnectionLost(RuntimeError("the client is gone"))
            case (dict() as fields, bytes() as payload):
                connection.send(request(payload, **fields))
    connection.open_gate.set()
    connection.send(None)
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()
    ended = (await task).error
    assert all(handle.closed for handle in worker.handles)
    assert asyncio.all_tasks() <= before
    connection.frames()  # in order, from 0, whatever the client did
    return ended if isinstance(ended, Exception) else None


@settings(max_examples=400)
@given(first=MESSAGES, steps=st.lists(STEPS, max_size=14))
def test_whatever_a_client_sends_ends_with_a_status_and_gives_everything_back(
    first: Message, steps: list[str | Message]
) -> None:
    """No fault of ours, no hang; and the next good session works."""
    error = asyncio.run(any_session(first, steps))
    if error is not None:
        assert status_of(error) is not None or isinstance(error, ConnectionLost), repr(error)
    connection = asyncio.run(asyncio.wait_for(explicit_session([2, 1], SPEC, 4, [4], 1 << 20), 60))
    assert connection.done().num_latents == 3


@settings(max_examples=400)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_malformed(raw: bytes) -> None:
    """What is a request opens a session or is refused with a status."""
    try:
        given_request = wire.split_request(raw)
        _, given_request = make_latents(FakeConnection(), given_request, rules().opening)
        Session(given_request, FakeWorker(), rules(), record(), ANYBODY, Recorder(0))
    except (wire.MalformedMessage, PipelineError, ServerError) as error:
        assert status_of(error) is not None  # noqa: PT017
