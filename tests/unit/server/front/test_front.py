import asyncio
import time
from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from framehaul.v1 import frames_pb2 as pb
from framehaul.v1.frames_pb2_grpc import FrameServiceStub
from framehaul_server.access.callers import Metadata
from framehaul_server.core.session_id import new_session_id
from framehaul_server.core.tenants import Caller, Tenant
from framehaul_server.errors import NotAuthenticated
from tests.support.fronts import running_front
from tests.support.placing import report

pytestmark = pytest.mark.asyncio


def by_name(metadata: Metadata) -> Caller:
    """Whoever says a name is that tenant."""
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            return Caller(tenant=Tenant(name=value))
    raise NotAuthenticated


async def ended(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call if not hasattr(call, "__aiter__") else [each async for each in call]
    return caught.value


def info_of(error: grpc.aio.AioRpcError) -> ErrorInfo:
    found = ErrorInfo()
    rich = rpc_status.from_call(error)
    assert rich is not None
    assert rich.details[0].Unpack(found)
    return found


async def test_what_only_a_server_does_is_refused_with_where_to_go() -> None:
    """Nothing of the request is read, however large it is."""
    requests: Iterable[pb.StreamRequest] = [pb.StreamRequest(latents=bytes(1 << 20))]
    async with running_front("a:1", "b:1") as (target, _, _), grpc.aio.insecure_channel(target) as channel:
        stub: Any = FrameServiceStub(channel)
        for call in (stub.Stream(iter(requests)), stub.Render(pb.RenderRequest()), stub.Trace(pb.TraceRequest())):
            error = await ended(call)
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "this address is a front" in (error.details() or "")
            assert "a:1" in (error.details() or "")
            found = info_of(error)
            assert (found.reason, found.domain, dict(found.metadata)) == ("FRONT", "framehaul", {"targets": "a:1,b:1"})


async def test_a_front_without_servers_says_what_it_is() -> None:
    async with running_front() as (target, _, _), grpc.aio.insecure_channel(target) as channel:
        stub: Any = FrameServiceStub(channel)
        assert dict(info_of(await ended(stub.Stream(iter([])))).metadata) == {"targets": ""}
        assert (await ended(stub.Locate(pb.LocateRequest()))).code() is grpc.StatusCode.UNAVAILABLE
        info = await stub.GetServerInfo(pb.GetServerInfoRequest())
        assert (info.device, info.ready, info.limits.max_sessions) == ("front of no server", False, 0)


async def test_servers_are_named_counted_and_known_by_health() -> None:
    """As long as a model has a server for new sessions."""
    async with running_front("a:1", "b:1") as (target, placement, front), grpc.aio.insecure_channel(target) as channel:
        stub: Any = FrameServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        found = await stub.Locate(pb.LocateRequest(model="tiny"))
        assert (found.target, list(found.alternatives)) == ("a:1", ["b:1"])
        info = await stub.GetServerInfo(pb.GetServerInfoRequest())
        assert (info.limits.max_sessions, info.load.sessions, list(info.epochs)) == (20, 1, [1, 2])
        service = health_pb2.HealthCheckRequest(service="framehaul.v1.FrameService/tiny")
        assert (await health.Check(service)).status == health_pb2.HealthCheckResponse.SERVING
        for server in ("a:1", "b:1"):
            placement.lost(server)
        front.look()
        await asyncio.sleep(0)
        assert (await health.Check(service)).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_follows_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when nobody says that it has changed: a server may have fallen silent."""
    monkeypatch.setattr("framehaul_server.front.front._LOOK_S", 0.01)
    async with running_front() as (target, placement, _), grpc.aio.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        seen = [(await watch.read()).status]
        placement.report("a:1", report(1), time.monotonic())
        seen.append((await watch.read()).status)
        assert seen == [health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING]
        watch.cancel()


async def test_a_front_that_drains_names_servers_for_their_sessions_alone() -> None:
    async with running_front("a:1") as (target, _, front), grpc.aio.insecure_channel(target) as channel:
        stub: Any = FrameServiceStub(channel)
        front.drain()
        error = await ended(stub.Locate(pb.LocateRequest()))
        assert (error.code(), error.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "the servers are draining: open the session elsewhere",
        )
        assert (await stub.Locate(pb.LocateRequest(session_id=new_session_id(1)))).target == "a:1"


async def test_strangers_are_told_nothing() -> None:
    """Nor is it told whose a session is, or whether there is one: only the server with its epoch knows."""
    async with (
        running_front("a:1", "b:1", identify=by_name) as (target, _, _),
        grpc.aio.insecure_channel(target) as channel,
    ):
        stub: Any = FrameServiceStub(channel)
        calls = (
            stub.Stream(iter([])),
            stub.Locate(pb.LocateRequest()),
            stub.GetServerInfo(pb.GetServerInfoRequest()),
        )
        for call in calls:
            assert (await ended(call)).code() is grpc.StatusCode.UNAUTHENTICATED
        ids = [new_session_id(2) for _ in range(2)]
        answers = [
            await stub.Locate(pb.LocateRequest(session_id=each), metadata=(("authorization", name),))
            for each in ids
            for name in ("film", "news")
        ]
        assert {each.target for each in answers} == {"b:1"}
        assert len({each.SerializeToString() for each in answers}) == 1
