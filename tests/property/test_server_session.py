"""Whole sessions with a stand-in worker: any chunking of latents, any acknowledgements, any lookahead, any tiles."""

import asyncio

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.spec import DecoderSpec
from framehaul_server.session import Session
from tests.unit.server.fakes import (
    ANYBODY,
    FRAME_BYTES,
    SPEC,
    FakeContext,
    FakeRequests,
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
) -> FakeContext:
    """Play a well-behaved EXPLICIT client; returns what it got."""
    worker = FakeWorker(spec)
    opened = opening(mode=pb.MODE_EXPLICIT, window_frames=window_frames, max_message_bytes=max_message_bytes)
    context, requests = FakeContext(), FakeRequests()
    session_rules = rules(spec=spec, window_bytes=16 * FRAME_BYTES, latent_bytes=0)
    session = Session(request(open=opened), worker, session_rules, record(), ANYBODY)
    task = asyncio.ensure_future(session.run(requests, context))
    waiting, num_sent, granted, acknowledged = list(messages), 0, 0, 0
    limits = max(16, spec.most_frames(1)) + 4
    while not task.done():
        await asyncio.sleep(0)
        granted = max(granted, *(each.header.latents_until for each in context.responses), 0)
        while waiting and num_sent + waiting[0] <= granted:
            num_sent += waiting[0]
            requests.send(request(latents(waiting.pop(0)), end_of_latents=not waiting))
        received = len(context.frames())
        handle = worker.handles[0] if worker.handles else None
        if handle is not None:
            assert handle.num_published - acknowledged <= limits
        if received > acknowledged:
            acknowledged = min(received, acknowledged + acks[received % len(acks)])
            requests.send(request(ack=pb.Ack(next_frame=acknowledged, window_frames=window_frames)))
    await task
    return context


@settings(max_examples=60, deadline=None)
@given(
    messages=st.lists(st.integers(1, 8), min_size=1, max_size=12),
    ahead=st.integers(0, 2).map(lambda latents: {"lookahead_latents": latents})
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
    context = asyncio.run(
        asyncio.wait_for(explicit_session(messages, spec, window_frames, acks, max_message_bytes), 20)
    )
    num_frames = 1 + 4 * (sum(messages) - 1)
    assert context.frames() == [frame(index) for index in range(num_frames)]
    assert context.done() == pb.Done(num_frames=num_frames, num_latents=sum(messages))
    assert all(len(raw) <= max_message_bytes for raw in context.raw if len(raw) > 200)
