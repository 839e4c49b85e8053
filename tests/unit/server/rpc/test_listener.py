"""Where a server listens, and what it serves there."""

import logging
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from framehaul_server import cli
from framehaul_server.access.tls import Certificates
from framehaul_server.errors import CannotListen
from framehaul_server.rpc.health import Health
from framehaul_server.rpc.listener import add_services, bind
from tests.support.call import CHANNEL_OPTIONS


class Ports:
    """A gRPC server's, without a network."""

    def __init__(self, *, taken: bool = False) -> None:
        self.taken = taken
        self.added: list[tuple[str, object]] = []

    def add_insecure_port(self, address: str) -> int:
        if self.taken:
            raise RuntimeError("Failed to bind")
        self.added.append((address, None))
        return 5

    def add_secure_port(self, address: str, credentials: object) -> int:
        self.added.append((address, credentials))
        return 6


class Pair:
    """A certificate and its key."""

    def credentials(self) -> str:
        return "credentials"


def test_it_says_what_it_lacks_where_others_reach_it(caplog: pytest.LogCaptureFixture) -> None:
    ports = Ports()
    for listen, told in (("127.0.0.1:0", 0), ("0.0.0.0:0", 1)):
        with caplog.at_level(logging.WARNING):
            bound = bind(cast(Any, ports), cli.parse(["--listen", listen, "--insecure"], {}), None)
        assert (bound.port, len(caplog.records)) == (5, told)
    assert "lacking" in caplog.text


def test_certificates_secure_the_port() -> None:
    ports = Ports()
    config = cli.parse(["--listen", "127.0.0.1:0"], {})
    assert bind(cast(Any, ports), config, cast(Certificates, Pair())).port == 6
    assert ports.added == [("127.0.0.1:0", "credentials")]


def test_an_address_that_is_taken_is_told() -> None:
    with pytest.raises(CannotListen, match=r"listen=127\.0\.0\.1:1: the address is in use"):
        bind(cast(Any, Ports(taken=True)), cli.parse(["--listen", "127.0.0.1:1"], {}), None)


@pytest.mark.asyncio
@pytest.mark.parametrize("reflect", [False, True])
async def test_reflection_is_served_where_it_is_wanted(reflect: bool) -> None:
    server = grpc.aio.server()
    add_services(server, [], Health(["toy"]), reflect=reflect)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert await check(health_pb2.HealthCheckRequest().SerializeToString(), timeout=60)
            asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, channel))
            answers = stub.ServerReflectionInfo(iter(asked), timeout=60)
            if reflect:
                names = [each.name for each in (await anext(aiter(answers))).list_services_response.service]
                assert "framehaul.v1.FrameService" in names
            else:
                with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                    await anext(aiter(answers))
    finally:
        await server.stop(None)
