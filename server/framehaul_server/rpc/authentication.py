"""Keeps callers without a token out, whatever they call, before their request is read.

Health stays open, for load balancers. Runs on the event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health

from framehaul_server import logs
from framehaul_server.access.callers import Identify
from framehaul_server.errors import NotAuthenticated
from framehaul_server.rpc.status import status_of

_OPEN: Final = f"/{health.SERVICE_NAME}/"
_LOG_INTERVAL_S: Final = 1.0

_log = logging.getLogger(__name__)


class Authentication(grpc.aio.ServerInterceptor):
    """Asks who makes a call, of every call but health's."""

    def __init__(self, identify: Identify) -> None:
        """Let in whom `identify` knows."""
        self._identify = identify
        self._num_denied = 0
        self._logged_s = -_LOG_INTERVAL_S

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Hand the call on, or to a handler that ends it."""
        if not handler_call_details.method.startswith(_OPEN):
            try:
                self._identify(handler_call_details.invocation_metadata or ())
            except NotAuthenticated as error:
                return self._denial(error)
        return await continuation(handler_call_details)

    def _denial(self, error: NotAuthenticated) -> Any:
        status = status_of(error)
        assert status is not None, "in the table"

        async def deny(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            self._note(context.peer())
            await context.abort(status.code, status.details)

        # A stream's handler suits every call: it reads only what it asks for.
        return grpc.stream_stream_rpc_method_handler(deny)

    def _note(self, peer: str) -> None:
        """Log denials, one line a second at most."""
        self._num_denied += 1
        now_s = time.monotonic()
        if now_s - self._logged_s >= _LOG_INTERVAL_S:
            _log.warning("%s", logs.line("denied", peer=peer, calls=self._num_denied))
            self._num_denied, self._logged_s = 0, now_s
