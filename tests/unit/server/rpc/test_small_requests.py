import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from framehaul.v1 import frames_pb2 as pb
from framehaul.v1 import frames_pb2_grpc, highlights_pb2
from framehaul.wire import SERVICE
from framehaul_server.access.callers import Identify, Metadata
from framehaul_server.core.tenants import Caller, Tenant
from framehaul_server.errors import NotAuthenticated
from framehaul_server.rpc import highlights, small_requests
from framehaul_server.rpc.health import Health
from framehaul_server.rpc.reflection import MethodPool
from framehaul_server.rpc.service import LARGE
from framehaul_server.rpc.small_requests import MAX_BYTES, SmallRequests
from tests.support.driven_service import by_name, serving
from tests.support.fakes import frame, latents, opening
from tests.support.http2 import DATA, END_STREAM, HEADERS, RST_STREAM, SETTINGS, Http2

CHECK = f"/{health.SERVICE_NAME}/Check"
REFLECT = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
SMALL = (
    CHECK,
    f"/{health.SERVICE_NAME}/List",
    f"/{health.SERVICE_NAME}/Watch",
    REFLECT,
    f"/{SERVICE}/GetServerInfo",
    f"/{SERVICE}/Locate",
    f"/{SERVICE}/Trace",
)
ANSWERED = tuple(method for method in SMALL if method != REFLECT and not method.endswith("Trace"))
"""Methods that answer an empty request."""


@asynccontextmanager
async def listening(identify: Identify | None = None) -> AsyncIterator[str]:
    """The server's methods, all that it has, on a port of their own."""
    async with serving(max_sessions=2) as driven:
        server = grpc.aio.server(interceptors=(SmallRequests(identify or by_name()),))
        server.add_generic_rpc_handlers((driven.service.handler(),))
        served = Health(["toy"])
        served.add_to(server)
        await served.publish()
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME), server, pool=MethodPool())  # type: ignore[arg-type]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


def test_every_method_but_those_that_take_latents_is_in_the_table() -> None:
    methods = {
        f"/{name}/{method.name}"
        for name, file in SERVICES
        for method in file.services_by_name[name.rpartition(".")[2]].methods
    }
    assert methods == {*SMALL, *LARGE}


SERVICES = (
    (SERVICE, pb.DESCRIPTOR),
    (highlights.SERVICE, highlights_pb2.DESCRIPTOR),
    (health.SERVICE_NAME, health_pb2.DESCRIPTOR),
    (reflection.SERVICE_NAME, reflection_pb2.DESCRIPTOR),
)


@pytest.mark.asyncio
async def test_generated_stubs_find_the_methods_as_they_are_declared() -> None:
    """Unary ones too, with a deadline and with compression; a handler's own status comes through."""
    async with listening() as target, grpc.aio.insecure_channel(target, compression=grpc.Compression.Gzip) as channel:
        checks: Any = health_pb2_grpc.HealthStub(channel)
        frames: Any = frames_pb2_grpc.FrameServiceStub(channel)
        asked = health_pb2.HealthCheckRequest(service=SERVICE)
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await checks.Check(asked, timeout=60)).status == not_serving
        everything = health_pb2.HealthListRequest()  # type: ignore[attr-defined]
        assert (await checks.List(everything, timeout=60)).statuses[SERVICE].status == not_serving
        watch = checks.Watch(asked)
        assert (await watch.read()).status == not_serving
        watch.cancel()
        assert (await frames.GetServerInfo(pb.GetServerInfoRequest(), timeout=60)).version == "1"
        assert (await frames.Locate(pb.LocateRequest(model="toy"), timeout=60)).target == "farm:50051"
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await checks.Check(health_pb2.HealthCheckRequest(service="other"))
        with pytest.raises(grpc.aio.AioRpcError, match="model='other'"):
            await frames.Locate(pb.LocateRequest(model="other"))
        shown: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        questions = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{SERVICE}.Locate")] * 3
        answers = [answer async for answer in shown.ServerReflectionInfo(iter(questions))]
        assert [answer.HasField("file_descriptor_response") for answer in answers] == [True] * 3
        render = frames.Render(pb.RenderRequest(open=opening(), latents=latents(2)), timeout=60)
        assert b"".join([each.payload async for each in render]) == b"".join(map(frame, range(8)))


@pytest.mark.asyncio
@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        (bytes(MAX_BYTES + 1), grpc.StatusCode.RESOURCE_EXHAUSTED, "a request of 4097 bytes: .* takes at most 4096"),
        (b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "."),
        (None, grpc.StatusCode.FAILED_PRECONDITION, "the call ended before its request"),
    ],
)
async def test_what_isnt_a_small_request_has_its_status(
    method: str, given: bytes | None, code: grpc.StatusCode, text: str
) -> None:
    """By what it is when inflated."""
    async with listening() as target, grpc.aio.insecure_channel(target, compression=grpc.Compression.Gzip) as channel:
        made: Any = channel.stream_stream(method)
        call = made([] if given is None else [given])
        if method == REFLECT and given is None:
            assert await call.read() is grpc.aio.EOF
            return
        with pytest.raises(grpc.aio.AioRpcError, match=text) as refusal:
            await call.read()
        assert refusal.value.code() is code


@pytest.mark.asyncio
@pytest.mark.parametrize("method", SMALL)
async def test_what_doesnt_come_is_not_waited_for(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announced, and withheld."""
    monkeypatch.setattr(small_requests, "TIMEOUT_S", 0.01)
    async with listening() as target:

        def attack() -> None:
            with Http2(target) as attacker:
                attacker.call(method)
                attacker.data(b"\0" + struct.pack(">I", 1 << 20) + bytes(100))
                answer = attacker.until(HEADERS, RST_STREAM)
                assert answer is not None
                assert b"no request came within 0.01 s" in answer[1]

        await asyncio.to_thread(attack)


@pytest.mark.asyncio
async def test_a_call_that_is_cancelled_takes_its_turn_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_requests, "GRACE_S", 60.0)
    async with listening() as target, grpc.aio.insecure_channel(target) as channel:
        silent: list[Any] = [channel.stream_stream(CHECK)() for _ in range(4)]
        await asyncio.gather(*(call.wait_for_connection() for call in silent))
        info: Any = frames_pb2_grpc.FrameServiceStub(channel).GetServerInfo
        waiting = asyncio.ensure_future(info(pb.GetServerInfoRequest(), timeout=60))
        for call in silent:
            call.cancel()
        assert (await waiting).version == "1"


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ANSWERED)
async def test_of_calls_that_arent_over_a_connection_has_few(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads their answers, or they watch; a new connection is answered however many there are."""
    monkeypatch.setattr(small_requests, "MOST_OF_A_CONNECTION", 3)
    monkeypatch.setattr(small_requests, "MOST_OF_A_TENANT", 4)
    async with listening() as target:

        def attack() -> None:
            with Http2(target) as first, Http2(target) as second:
                assert b"3 calls of this connection aren't over, of at most 3" in refusal(first, method, num_calls=4)
                assert b"1 calls of this connection aren't over, of at most 1" in refusal(second, method, num_calls=2)

        await asyncio.to_thread(attack)
        async with grpc.aio.insecure_channel(target) as channel:
            info: Any = frames_pb2_grpc.FrameServiceStub(channel).GetServerInfo
            assert (await info(pb.GetServerInfoRequest(), timeout=60)).version == "1"


def refusal(client: Http2, method: str, *, num_calls: int) -> bytes:
    """What the last of some calls is told, whose client has no room for an answer's message."""
    client.send(SETTINGS, struct.pack(">HI", 4, 0))  # SETTINGS_INITIAL_WINDOW_SIZE
    for stream in range(1, 2 * num_calls, 2):
        client.call(method, stream)
        client.send(DATA, bytes(5), flags=END_STREAM, stream=stream)
    while (answer := client.until(HEADERS)) is not None:
        if b"grpc-status" in answer[1]:
            return answer[1]
    raise AssertionError("the connection is closed")


@pytest.mark.asyncio
async def test_a_method_that_nobody_has_is_unimplemented() -> None:
    async with listening() as target, grpc.aio.insecure_channel(target) as channel:
        other: Any = channel.unary_unary(f"/{SERVICE}/Other")
        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            await other(b"")


@pytest.mark.asyncio
async def test_strangers_that_say_nothing_take_no_turn_from_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to wait for the strangers' time to be over, which would be a minute here."""
    monkeypatch.setattr(small_requests, "TIMEOUT_S", 60.0)
    monkeypatch.setattr(small_requests, "GRACE_S", 0.01)

    def identify(metadata: Metadata) -> Caller:
        if not dict(metadata).get("tenant"):
            raise NotAuthenticated
        return Caller(tenant=Tenant(name="film"))

    async with listening(identify) as target, grpc.aio.insecure_channel(target) as channel:
        silent: list[Any] = [channel.stream_stream(CHECK)() for _ in range(8)]
        info: Any = frames_pb2_grpc.FrameServiceStub(channel).GetServerInfo
        for _ in range(3):
            told = await info(pb.GetServerInfoRequest(), metadata=(("tenant", "film"),), timeout=60)
            assert told.version == "1"
        for call in silent:
            call.cancel()
