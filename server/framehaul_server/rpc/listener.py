"""A gRPC server with its bounds, its interceptors and its address, a front's as a server's. Runs on the event loop."""

from __future__ import annotations

import logging
from typing import cast

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from framehaul.address import Address
from framehaul.wire import SERVICE
from framehaul_server import logs
from framehaul_server.access.callers import Identify
from framehaul_server.access.tls import Certificates
from framehaul_server.config import ServerConfig
from framehaul_server.errors import CannotListen
from framehaul_server.rpc.authentication import Authentication
from framehaul_server.rpc.health import Health
from framehaul_server.rpc.options import server_options
from framehaul_server.rpc.reflection import MethodPool
from framehaul_server.rpc.small_requests import SmallRequests

_log = logging.getLogger(__name__)


def make_server(config: ServerConfig, identify: Identify, *, max_calls: int) -> grpc.aio.Server:
    """A server that lets in whom `identify` knows, and expects `max_calls` at a time of a connection."""
    return grpc.aio.server(
        interceptors=(Authentication(identify), SmallRequests(identify)),
        options=server_options(
            max_request_bytes=config.max_request_bytes, max_calls=max_calls, keepalive_s=config.keepalive_s
        ),
    )


def bind(server: grpc.aio.Server, config: ServerConfig, certificates: Certificates | None) -> Address:
    """Bind `server` to the configured address; gives that with the port that it has.

    Raises:
        CannotListen: the address is in use, or not of this machine.
    """
    wanted = config.listen
    if config.exposed:
        _log.warning("%s", logs.line("insecure", listen=wanted, lacking=config.exposed))
    try:
        if certificates:
            port = server.add_secure_port(str(wanted), certificates.credentials())
        else:
            port = server.add_insecure_port(str(wanted))
    except RuntimeError as error:
        raise CannotListen(f"listen={wanted}: the address is in use or not of this machine") from error
    return Address(host=wanted.host, port=port)


def add_services(server: grpc.aio.Server, handler: grpc.GenericRpcHandler, state: Health, *, reflect: bool) -> None:
    """Serve `handler`, health, and reflection of both where that is wanted."""
    server.add_generic_rpc_handlers((handler,))
    state.add_to(server)
    if reflect:
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, pool=cast(DescriptorPool, MethodPool()))
