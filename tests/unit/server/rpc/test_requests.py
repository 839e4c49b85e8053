import asyncio
import gc

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import MalformedMessage
from framehaul_pipeline.errors import InvalidInput
from framehaul_server.rpc.requests import RenderRequests, StreamRequests
from tests.support.fakes import FakeContext, latents, opening, request


@pytest.mark.asyncio
async def test_a_request_stream_gives_its_messages_and_then_none() -> None:
    context = FakeContext()
    context.send(request(latents(1), open=opening()))
    context.half_close()
    requests = StreamRequests(context)
    first = await requests.read()
    assert first is not None
    assert first.header.open == opening()
    assert first.payload == latents(1)
    assert await requests.read() is None


@pytest.mark.asyncio
async def test_a_read_that_nobody_waits_for_goes_on_until_the_call_ends() -> None:
    """Cancelled, it would leak: sessions end while their clients have nothing more to say."""
    context = FakeContext()
    waiting = asyncio.create_task(StreamRequests(context).read())
    await asyncio.sleep(0)
    before = asyncio.all_tasks()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (reading,) = before - {waiting, asyncio.current_task()}
    assert reading is not None
    context.half_close()
    await asyncio.wait_for(reading, 5)
    assert not reading.cancelled()


@pytest.mark.asyncio
async def test_a_read_that_nobody_waits_for_fails_silently() -> None:
    """As grpc.aio's does at a call's end: the log would have its traceback, and not in the log's form."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    began, call_ended = asyncio.Event(), asyncio.Event()

    class EndedContext:
        async def read(self) -> object:
            began.set()
            await call_ended.wait()
            raise grpc.aio.UsageError("RPC already finished.")

    waiting = asyncio.create_task(StreamRequests(EndedContext()).read())
    await began.wait()
    (reading,) = asyncio.all_tasks() - {waiting, asyncio.current_task()}
    waiting.cancel()
    call_ended.set()
    assert reading is not None
    await asyncio.wait([waiting, reading])
    del waiting, reading
    gc.collect()
    assert complaints == []


@pytest.mark.asyncio
async def test_malformed_bytes_are_an_error_of_ours() -> None:
    context = FakeContext()
    context.requests.put_nowait(b"\xff\xff")
    with pytest.raises(MalformedMessage):
        await StreamRequests(context).read()


@pytest.mark.asyncio
async def test_a_render_request_is_one_request_of_a_stream() -> None:
    given = pb.RenderRequest(open=opening(), crc32c=0, num_latents=2, latents=latents(2))
    requests = RenderRequests(given.SerializeToString())
    first = await requests.read()
    assert first is not None
    assert first.header == pb.StreamRequest(open=opening(), crc32c=0, num_latents=2)
    assert first.payload == latents(2)
    assert await requests.read() is None


@pytest.mark.asyncio
async def test_a_synthetic_render_request_needs_no_open() -> None:
    synthetic = pb.Synthetic(num_latents=2)
    first = await RenderRequests(pb.RenderRequest(synthetic=synthetic).SerializeToString()).read()
    assert first is not None
    assert first.header == pb.StreamRequest(synthetic=synthetic)


@pytest.mark.asyncio
async def test_a_field_that_only_stream_has_means_nothing_in_render() -> None:
    """Unknown fields are skipped, as protobuf has it; `end_of_latents`' number is unknown to RenderRequest."""
    raw = pb.StreamRequest(open=opening(), cancel=True).SerializeToString()
    first = await RenderRequests(raw).read()
    assert first is not None
    assert not first.header.cancel


@pytest.mark.asyncio
async def test_render_knows_no_explicit_mode() -> None:
    raw = pb.RenderRequest(open=opening(mode=pb.MODE_EXPLICIT)).SerializeToString()
    with pytest.raises(InvalidInput, match=r"open\.mode"):
        await RenderRequests(raw).read()
