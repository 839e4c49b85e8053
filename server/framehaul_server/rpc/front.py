"""The handlers of a front: it names servers, tells of all of them together, and decodes nothing. Run on the event loop.

Of a call that only a server can serve nothing is read: the answer is where to go.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import Unavailable
from framehaul_server.access.callers import Identify
from framehaul_server.core.placement import Placement
from framehaul_server.errors import Elsewhere
from framehaul_server.rpc.boundary import guard, new_record
from framehaul_server.rpc.connection import Context
from framehaul_server.rpc.info import told_to


class FrontService:
    """Answers out of a table that others keep up to date."""

    def __init__(self, *, placement: Placement, identify: Identify, info: Callable[[], pb.ServerInfo]) -> None:
        """Answer those whom `identify` knows; `info` tells of all servers together."""
        self._placement = placement
        self._identify = identify
        self._info = info
        self._draining = False

    def handler(self) -> grpc.GenericRpcHandler:
        """What a `grpc.aio.server` takes; without (de)serializers, as a server's."""
        return grpc.method_handlers_generic_handler(
            wire.SERVICE,
            {
                "Stream": grpc.stream_stream_rpc_method_handler(self.elsewhere),
                "Render": grpc.stream_stream_rpc_method_handler(self.elsewhere),
                "Locate": grpc.unary_unary_rpc_method_handler(self.locate),
                "GetServerInfo": grpc.unary_unary_rpc_method_handler(self.get_server_info),
                "Trace": grpc.unary_stream_rpc_method_handler(self.elsewhere),
            },
        )

    def drain(self) -> None:
        """Name no servers for new sessions."""
        self._draining = True

    async def elsewhere(self, _requests: object, context: Context) -> None:
        """Say where to go."""

        async def refuse() -> None:
            self._identify(context.invocation_metadata() or ())
            raise Elsewhere(self._placement.peek(time.monotonic()))

        await guard(context, new_record("elsewhere", context), refuse())

    async def locate(self, raw: bytes, context: Context) -> bytes:
        """Name the server for a session."""

        async def answer() -> bytes:
            tenant = self._identify(context.invocation_metadata() or ()).tenant.name
            request = wire.split(raw, pb.LocateRequest).header
            if self._draining and not request.session_id:
                raise Unavailable("the servers are draining: open the session elsewhere")
            return self._placement.locate(request, tenant, time.monotonic()).SerializeToString()

        return await guard(context, new_record("Locate", context), answer())

    async def get_server_info(self, raw: bytes, context: Context) -> bytes:
        """Tell of all servers together."""

        async def answer() -> bytes:
            caller = self._identify(context.invocation_metadata() or ())
            wire.split(raw, pb.GetServerInfoRequest)
            return told_to(caller, self._info()).SerializeToString()

        return await guard(context, new_record("GetServerInfo", context), answer())
