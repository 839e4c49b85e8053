import asyncio
import gc

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import MalformedMessage
from framehaul_pipeline.errors import InvalidInput
from framehaul_server.errors import ConnectionLost
from framehaul_server.rpc.connection import RenderConnection, StreamConnection
from tests.support.fakes import FakeContext, as_context, latents, opening, request


def rendering(raw: bytes) -> RenderConnection:
    context = FakeContext()
    context.requests.put_nowait(raw)
    return RenderConnection(as_context(context))


@pytest.mark.asyncio
async def test_a_request_stream_gives_its_messages_and_then_none() -> None:
    context = FakeContext()
    context.send(request(latents(1), open=opening()))
    context.half_close()
    requests = StreamConnection(as_context(context))
    first = await requests.read()
    assert first is not None
    assert first.header.open == opening()
    assert first.payload == latents(1)
    assert await requests.read() is None


@pytest.mark.asyncio
async def test_a_read_that_nobody_waits_for_goes_on_until_the_call_ends() -> None:
    """Cancelled, it would leak: sessions end while their clients have nothing more to say."""
    context = FakeContext()
    waiting = asyncio.create_task(StreamConnection(as_context(context)).read())
    await asyncio.sleep(0)
    before = asyncio.all_tasks()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (reading,) = before - {waiting, asyncio.current_task()}
    assert reading is not None
    context.half_close()
    await asyncio.wait_for(reading, 60)
    assert not reading.cancelled()


@pytest.mark.asyncio
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_read_that_nobody_waits_for_ends_silently(cancelled: bool) -> None:
    """As grpc.aio's fails at a call's end, or the event loop's end cancels it: the log would have its traceback."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    began, call_ended = asyncio.Event(), asyncio.Event()

    class EndedContext:
        async def read(self) -> object:
            began.set()
            await call_ended.wait()
            raise grpc.aio.UsageError("RPC already finished.")

    waiting = asyncio.create_task(StreamConnection(as_context(EndedContext())).read())
    await began.wait()
    (reading,) = asyncio.all_tasks() - {waiting, asyncio.current_task()}
    assert reading is not None
    waiting.cancel()
    if cancelled:
        reading.cancel()
    call_ended.set()
    await asyncio.wait([waiting, reading])
    del waiting, reading
    gc.collect()
    assert complaints == []


@pytest.mark.asyncio
async def test_a_request_that_came_while_a_read_was_cancelled_is_the_next() -> None:
    """Nothing is lost, whatever was waited for beside it."""
    context = FakeContext()
    connection = StreamConnection(as_context(context))
    waiting = asyncio.create_task(connection.read())
    await asyncio.sleep(0)
    context.send(request(open=opening()))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    context.send(request(end_of_latents=True))
    first, second = await connection.read(), await connection.read()
    assert first is not None
    assert second is not None
    assert first.header.HasField("open")
    assert second.header.end_of_latents


@pytest.mark.asyncio
async def test_headers_are_sent_once() -> None:
    """Whoever writes first; grpc.aio refuses a second time."""
    context = FakeContext()
    connection = StreamConnection(as_context(context))
    assert not context.headers_sent
    await connection.send_headers()
    await connection.send_headers()
    await connection.write(b"")
    assert context.raw == [b""]


class Broken:
    """A context whose every call fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def read(self) -> object:
        raise self._error

    async def send_initial_metadata(self, _: object) -> None:
        raise self._error

    async def write(self, _: bytes) -> None:
        raise self._error


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (cygrpc.ExecuteBatchError("Failed"), ConnectionLost),
        (grpc.aio.InternalError("batch"), ConnectionLost),
        (grpc.aio.AbortError("aborted"), ConnectionLost),
        (grpc.aio.UsageError("RPC already finished."), grpc.aio.UsageError),
    ],
)
async def test_a_client_that_is_gone_is_an_error_of_ours_and_a_mistake_of_ours_is_not(
    error: Exception, ours: type[Exception]
) -> None:
    connection = StreamConnection(as_context(Broken(error)))
    for call in (connection.read, connection.send_headers, lambda: connection.write(b"")):
        with pytest.raises(ours) as raised:
            await call()
        assert getattr(raised.value, "reason", error) is error


@pytest.mark.asyncio
async def test_malformed_bytes_are_an_error_of_ours() -> None:
    context = FakeContext()
    context.requests.put_nowait(b"\xff\xff")
    with pytest.raises(MalformedMessage):
        await StreamConnection(as_context(context)).read()


@pytest.mark.asyncio
async def test_a_render_request_is_one_request_of_a_stream() -> None:
    given = pb.RenderRequest(open=opening(), crc32c=0, num_latents=2, latents=latents(2))
    requests = rendering(given.SerializeToString())
    first = await requests.read()
    assert first is not None
    assert first.header == pb.StreamRequest(open=opening(), crc32c=0, num_latents=2)
    assert first.payload == latents(2)
    assert await requests.read() is None


@pytest.mark.asyncio
async def test_a_synthetic_render_request_needs_no_open() -> None:
    synthetic = pb.Synthetic(num_latents=2)
    first = await rendering(pb.RenderRequest(synthetic=synthetic).SerializeToString()).read()
    assert first is not None
    assert first.header == pb.StreamRequest(synthetic=synthetic)


@pytest.mark.asyncio
async def test_a_field_that_only_stream_has_means_nothing_in_render() -> None:
    """Unknown fields are skipped, as protobuf has it; `end_of_latents`' number is unknown to RenderRequest."""
    raw = pb.StreamRequest(open=opening(), cancel=True).SerializeToString()
    first = await rendering(raw).read()
    assert first is not None
    assert not first.header.cancel


@pytest.mark.asyncio
async def test_render_knows_no_explicit_mode() -> None:
    raw = pb.RenderRequest(open=opening(mode=pb.MODE_EXPLICIT)).SerializeToString()
    with pytest.raises(InvalidInput, match=r"open\.mode"):
        await rendering(raw).read()
