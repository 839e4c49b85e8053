"""What our handlers and settings rely on in grpc.aio; a failure here after an upgrade says which promise to look at."""

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from framehaul_server.rpc.options import server_options
from tests.support.waiting import nap_clock

METHOD = "/facts/Stream"
LARGE = bytes(1 << 20)
OPTIONS = server_options(max_request_bytes=1 << 20, max_calls=8, keepalive_s=10.0)
Handler = Callable[[Any, Any], Any]


@asynccontextmanager
async def serving(handler: Handler, *options: tuple[str, int]) -> AsyncIterator[str]:
    """A server whose only method is `handler`."""
    server = grpc.aio.server(options=[*{**dict(OPTIONS), **dict(options)}.items()])
    handlers: dict[str, Any] = {"Stream": grpc.stream_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("facts", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Witness:
    """Notes what ended a handler."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.ended: asyncio.Future[tuple[BaseException, bool]] = asyncio.get_running_loop().create_future()

    def saw(self, error: BaseException, context: Any) -> None:
        self.ended.set_result((error, context.cancelled()))


async def write_until_blocked(witness: Witness, context: Any) -> None:
    while True:
        writing = asyncio.ensure_future(context.write(LARGE))
        await asyncio.wait([writing], timeout=0.2)
        if not writing.done():
            witness.waiting.set()
        await writing


async def cancel(handler_of: Callable[[Witness], Handler]) -> tuple[BaseException, bool]:
    """Call the handler, cancel once it waits, and give what it saw."""
    witness = Witness()
    async with serving(handler_of(witness)) as target, grpc.aio.insecure_channel(target) as channel:
        call: Any = channel.stream_stream(METHOD)()
        await call.write(b"")
        await asyncio.wait_for(witness.waiting.wait(), 60)
        call.cancel()
        return await asyncio.wait_for(witness.ended, 60)


def waits_in_own_code(witness: Witness) -> Handler:
    async def handler(_: Any, context: Any) -> None:
        try:
            witness.waiting.set()
            await asyncio.Event().wait()
        except BaseException as error:
            witness.saw(error, context)
            raise

    return handler


def is_blocked_in_write(witness: Witness) -> Handler:
    async def handler(_: Any, context: Any) -> None:
        try:
            await write_until_blocked(witness, context)
        except BaseException as error:
            witness.saw(error, context)
            raise

    return handler


def is_suspended_at_yield(witness: Witness) -> Handler:
    async def handler(_: Any, context: Any) -> AsyncIterator[bytes]:
        try:
            yield LARGE
            asyncio.get_running_loop().call_later(0.2, witness.waiting.set)
            while True:
                yield LARGE
        except BaseException as error:
            witness.saw(error, context)
            raise

    return handler


@pytest.mark.asyncio
async def test_a_cancel_reaches_our_own_waiting_as_cancelled_error() -> None:
    error, said_cancelled = await cancel(waits_in_own_code)
    assert isinstance(error, asyncio.CancelledError)
    assert not said_cancelled


@pytest.mark.asyncio
async def test_a_cancel_reaches_a_blocked_write_as_an_ordinary_exception_or_as_cancelled_error() -> None:
    error, said_cancelled = await cancel(is_blocked_in_write)
    assert isinstance(error, asyncio.CancelledError | grpc.aio.InternalError)
    assert issubclass(grpc.aio.InternalError, Exception)
    assert issubclass(grpc.aio.InternalError, grpc.aio.BaseError)
    assert not said_cancelled


@pytest.mark.asyncio
async def test_a_cancel_reaches_a_generator_at_its_yield_as_generator_exit() -> None:
    """So a handler that yields inside a task group would be torn apart; ours write."""
    error, said_cancelled = await cancel(is_suspended_at_yield)
    assert isinstance(error, GeneratorExit | asyncio.CancelledError)
    assert not said_cancelled


@pytest.mark.asyncio
async def test_abort_raises_an_ordinary_exception_that_must_pass() -> None:
    seen: list[BaseException] = []

    async def handler(_: Any, context: Any) -> None:
        try:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing here", (("key", "value"),))
        except BaseException as error:
            seen.append(error)
            raise

    async with serving(handler) as target, grpc.aio.insecure_channel(target) as channel:
        call: Any = channel.stream_stream(METHOD)()
        assert await call.code() is grpc.StatusCode.NOT_FOUND
        assert ("key", "value") in [*(await call.trailing_metadata())]
    assert isinstance(seen[0], grpc.aio.AbortError)
    assert isinstance(seen[0], Exception)


async def status_after_reading(call: Any) -> grpc.StatusCode:
    """Take every message first: the status comes after them."""
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code()  # type: ignore[no-any-return]


async def cancelled_write(context: Any, message: bytes) -> None:
    writing = asyncio.ensure_future(context.write(message))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_status_after_a_cancelled_write_arrives_when_headers_were_sent_before() -> None:
    """Without `send_initial_metadata` first, the status would be lost: see `Session.run`."""

    async def handler(_: Any, context: Any) -> None:
        await context.send_initial_metadata(())
        await cancelled_write(context, b"first")
        await context.abort(grpc.StatusCode.NOT_FOUND, "told")

    async with serving(handler) as target, grpc.aio.insecure_channel(target) as channel:
        for _ in range(20):
            call: Any = channel.stream_stream(METHOD)()
            assert await asyncio.wait_for(status_after_reading(call), 60) is grpc.StatusCode.NOT_FOUND


@pytest.mark.asyncio
async def test_a_status_reaches_a_client_whose_frames_are_blocked_once_it_reads() -> None:
    witness = Witness()

    async def handler(_: Any, context: Any) -> None:
        await context.send_initial_metadata(())
        blocked = asyncio.ensure_future(write_until_blocked(witness, context))
        await witness.waiting.wait()
        blocked.cancel()
        await asyncio.gather(blocked, return_exceptions=True)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "told")

    async with serving(handler) as target, grpc.aio.insecure_channel(target) as channel:
        call: Any = channel.stream_stream(METHOD)()
        await asyncio.wait_for(witness.waiting.wait(), 60)
        assert await asyncio.wait_for(status_after_reading(call), 60) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.asyncio
async def test_two_servers_cannot_share_a_port() -> None:
    server, second = (grpc.aio.server(options=OPTIONS) for _ in range(2))
    port = server.add_insecure_port("127.0.0.1:0")
    with pytest.raises(RuntimeError):
        second.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.stop(None)


@pytest.mark.asyncio
async def test_a_connection_that_never_speaks_is_dropped() -> None:
    async def handler(_: Any, context: Any) -> None:
        pass

    assert dict(OPTIONS)["grpc.server_handshake_timeout_ms"] == 10_000
    async with serving(handler, ("grpc.server_handshake_timeout_ms", 300)) as target:
        reader, writer = await asyncio.open_connection(*target.split(":"))
        await asyncio.wait_for(reader.read(), 60)
        writer.close()
        await writer.wait_closed()


FROZEN_CLIENT = """
    import grpc, sys
    with grpc.insecure_channel({target!r}) as channel:
        call = channel.stream_stream({method!r})(iter(sys.stdin.readline, ""))
        next(call)
        print("reading", flush=True)
        next(call)
"""


@pytest.mark.asyncio
async def test_a_frozen_client_is_noticed_by_the_ping_timeout() -> None:
    """With `keepalive_timeout_ms` alone this takes a minute."""
    witness = Witness()

    async def handler(_: Any, context: Any) -> None:
        try:
            await context.write(b"")
            witness.waiting.set()
            await asyncio.Event().wait()
        except BaseException as error:
            witness.saw(error, context)
            raise

    assert dict(OPTIONS)["grpc.http2.ping_timeout_ms"] == 5_000
    quick = (("grpc.keepalive_time_ms", 500), ("grpc.http2.ping_timeout_ms", 500))
    async with serving(handler, *quick) as target:
        code = textwrap.dedent(FROZEN_CLIENT.format(target=target, method=METHOD))
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert client.stdout is not None
        await asyncio.wait_for(client.stdout.readline(), 60)
        client.send_signal(signal.SIGSTOP)
        try:
            with nap_clock() as clock:
                error, _ = await witness.ended
                assert clock() < 10
            assert isinstance(error, asyncio.CancelledError | grpc.aio.InternalError)
        finally:
            client.kill()
            await client.communicate()


def test_connections_are_never_aged_out() -> None:
    """`max_connection_age_grace_ms` ends running streams with INTERNAL."""
    assert not [name for name, _ in OPTIONS if "age" in name and "message" not in name]
