"""The address of several servers: it answers for a table that somebody else keeps up to date."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version
from typing import Final

from framehaul.address import Address
from framehaul_server.access.callers import Identify
from framehaul_server.access.tls import Certificates
from framehaul_server.config import ServerConfig
from framehaul_server.core.placement import Placement
from framehaul_server.rpc.front import FrontService
from framehaul_server.rpc.health import Health
from framehaul_server.rpc.info import sum_of
from framehaul_server.rpc.listener import add_services, bind, make_server

_LOOK_S: Final = 1.0
_STOP_S: Final = 1.0
_CALLS: Final = 256
"""Of one connection at a time; each is over at once."""


class Front:
    """Owner of the gRPC server."""

    def __init__(
        self, config: ServerConfig, placement: Placement, identify: Identify, certificates: Certificates | None
    ) -> None:
        """Prepare to answer those whom `identify` knows out of `placement`."""
        self._config = config
        self._placement = placement
        self._certificates = certificates
        epoch = time.time_ns()
        self._service = FrontService(
            placement=placement,
            identify=identify,
            info=lambda: sum_of(placement.servers(time.monotonic()), version=version("framehaul"), epoch=epoch),
        )
        self._health = Health(())
        self._server = make_server(config, identify, max_calls=_CALLS)
        self._beside: list[asyncio.Task[None]] = []

    def bind(self) -> Address:
        """Take the address.

        Raises:
            CannotListen: it is in use, or not of this machine.
        """
        address = bind(self._server, self._config, self._certificates)
        add_services(self._server, self._service.handler(), self._health, reflect=self._config.reflection)
        return address

    async def start(self) -> None:
        """Answer."""
        self.look()
        await self._health.publish()
        await self._server.start()
        self._beside = [asyncio.create_task(each) for each in (self._health.run(), self._keep_looking())]

    def look(self) -> None:
        """Health is that of the table now; it is looked at each second anyway."""
        self._health.models_ready(self._placement.ready_models(time.monotonic()))

    def drain(self) -> None:
        """Name no servers for new sessions."""
        self._health.drain()
        self._service.drain()

    async def aclose(self) -> None:
        """Stop answering. Twice is fine.

        Cancellation: open calls are cut off.
        """
        for each in self._beside:
            each.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self._server.stop(_STOP_S)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()
