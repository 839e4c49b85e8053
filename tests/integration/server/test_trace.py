"""Traces of a real server and its worker, while it serves."""

import asyncio
import contextlib
import itertools
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from framehaul_client import FrameClient
from framehaul_client.trace.tracks import TraceFile
from framehaul_client.trace.writer import Clock, TraceWriter
from tests.support.client_command import run_client
from tests.support.clips import decode, make_clip
from tests.support.server_process import ServerProcess
from tests.support.traces import Contents, numbers, read

CLIP = make_clip(6)


def check_frames(found: Contents, *, num_frames: int) -> None:
    """Each frame has its chunk and is sent once, in this order and tied together; causes follow each other."""
    starts = {number: each for each in found.of("decode") for number in _frames(each.notes)}
    sends = {number: each for each in found.of("sends") for number in numbers(each)}
    assert [*sorted(starts)] == [*sorted(sends)] == [*range(num_frames)]
    publish = {number: each for each in found.of("publish") for number in _frames(each.notes)}
    latents = {number: each for each in found.of("latents") for number in numbers(each)}
    for number, send in sends.items():
        decode = starts[number]
        first, count = decode.notes["first latent"], decode.notes["latents"]
        for latent in range(first, first + count):
            assert latents[latent].start_ns <= decode.start_ns
            assert latents[latent].flows & decode.flows
        assert decode.start_ns < decode.end_ns <= publish[number].start_ns <= send.start_ns <= send.end_ns
        assert decode.flows & publish[number].flows
        assert publish[number].flows & sends[numbers(send)[0]].flows
    waits = found.of("waits")
    assert waits
    for before, after in itertools.pairwise(waits):
        assert before.end_ns <= after.start_ns


def _frames(notes: dict[str, int]) -> range:
    return range(notes["first frame"], notes["first frame"] + notes["frames"])


@pytest.mark.asyncio
async def test_a_trace_of_a_server_that_serves_meanwhile(server: ServerProcess, tmp_path: Path) -> None:
    """Every frame's way is in it, from latents to the transport, on one clock; levels are sampled."""
    path = tmp_path / "t.pftrace"
    file = TraceFile(path)
    writer = TraceWriter(file, server.target)
    async with FrameClient(server.target) as client, contextlib.aclosing(client.trace(300)) as responses:
        writer.start(await anext(responses), Clock())
        decoding = asyncio.create_task(decode(server.target, CLIP))
        looks = 0
        async for response in responses:
            writer.server(response)
            looks += decoding.done() and response.HasField("load")
            if looks == 2:
                break
    writer.finish()
    file.publish()
    found = read(path)
    check_frames(found, num_frames=24)
    assert len(found.levels["frame slots in use"]) > 2
    assert found.about["device"].startswith("cpu")
    assert found.about["events left out"] == 0


@pytest.mark.asyncio
async def test_a_run_is_traced_from_its_latents_to_its_encoder(server: ServerProcess, tmp_path: Path) -> None:
    """`client stream --trace`: both sides of its session, and none of others, on one clock."""
    save_file({"latents": CLIP}, tmp_path / "a.safetensors")
    path = tmp_path / "t.pftrace"
    stranger = asyncio.create_task(decode(server.target, make_clip(3)))
    outcome = await run_client(
        "stream", tmp_path / "a.safetensors", "--out", tmp_path / "v.mkv", "--target", server.target, "--trace", path
    )
    await stranger
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("lacks the server's side") == 0
    found = read(path)
    check_frames(found, num_frames=24)
    assert len({each.path[1] for each in found.of("waits")}) == 1
    sent = {number: each for each in found.of("client latents") for number in numbers(each)}
    arrived = {number: each for each in found.of("latents") for number in numbers(each)}
    assert sent.keys() == arrived.keys() == {*range(6)}
    assert all(sent[number].start_ns <= arrived[number].start_ns for number in sent)
    sends = {numbers(each)[0]: each for each in found.of("sends")}
    received = {numbers(each)[0]: each for each in found.of("received")}
    encoded = {numbers(each)[0]: each for each in found.of("encode") if each.name.startswith("frame")}
    assert sends.keys() == received.keys() == encoded.keys()
    for first, send in sends.items():
        assert send.start_ns <= received[first].start_ns <= encoded[first].start_ns
        assert send.flows == received[first].flows == encoded[first].flows
    outcome = await run_client("timeline", path, "--out", tmp_path / "t.png")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "t.png").stat().st_size > 10_000


@pytest.mark.asyncio
async def test_a_trace_of_a_server_that_does_nothing(server: ServerProcess, tmp_path: Path) -> None:
    """`client trace` ends by itself, and says what to do with the file; there is nothing to draw."""
    path = tmp_path / "t.pftrace"
    outcome = await run_client("trace", "--out", path, "--target", server.target, "--seconds", "1")
    assert outcome.code == 0, outcome.err
    assert outcome.out.decode().startswith(f"{path}: 0 events of 0 sessions at {server.target} in 1 s\n")
    assert "events=0 dropped=0" in server.log
    assert read(path).levels["sessions"][-1] == 0
    outcome = await run_client("timeline", path, "--out", tmp_path / "t.png")
    assert outcome.code == 2
    assert "nothing happened in this trace" in outcome.err
