"""`fleet locate`: the address of servers that are named or found by DNS. It keeps no state, so several may run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from framehaul.address import Address
from framehaul_client.access import Access
from framehaul_fleet.watching import RESOLVE_S, Resolve, Watching, resolve
from framehaul_server.access.callers import Identify
from framehaul_server.access.tls import Certificates
from framehaul_server.app import read_access
from framehaul_server.config import ServerConfig
from framehaul_server.core.placement import Placement
from framehaul_server.front.front import Front

if TYPE_CHECKING:
    from framehaul_server.observe.http import HttpServer

_FIRST_S: Final = 10.0
"""For a server to answer before this address does."""


async def locate(
    config: ServerConfig,
    servers: Sequence[Address],
    access: Access,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], None],
    resolve: Resolve = resolve,
    resolve_s: float = RESOLVE_S,
) -> None:
    """Answer for `servers` until `stop` is set.

    Args:
        config: of this front: where it listens, who may ask.
        servers: what is watched.
        access: how it asks them.
        stop: see above.
        on_ready: gets the line that says what is served.
        resolve: finds the servers that one of `servers` stands for.
        resolve_s: how often it is asked.

    Raises:
        CannotListen: the address is in use, or not of this machine.
        InvalidOption: the token would cross a network in the clear.
        UnusableFile: certificates, keys or tokens can't be read, or hold what they shouldn't.

    Cancellation: stops.
    """
    certificates, identify = read_access(config)
    placement = Placement()
    watching = Watching(servers, access, placement, resolve=resolve, resolve_s=resolve_s)
    front = Front(config, placement, identify, certificates)
    address = front.bind()
    http: HttpServer | None = None
    running = [asyncio.create_task(each) for each in (watching.run(), stop.wait())]
    try:
        if config.metrics is not None:
            http = await _observe(config.metrics, placement, identify, certificates)
        first = asyncio.create_task(watching.asked.wait())
        await asyncio.wait({first, *running}, timeout=_FIRST_S, return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
        await front.start()
        on_ready(f"fleet: naming servers on {address}, of {', '.join(map(str, servers))}")
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        if running[0].done():
            running[0].result()  # it never ends well
        front.drain()
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await front.aclose()
        if http is not None:
            await http.aclose()


async def _observe(
    address: Address, placement: Placement, identify: Identify, certificates: Certificates | None
) -> HttpServer:
    from framehaul_server.observe.targets import serve_targets  # only where it is asked for: it takes its time

    def targets() -> list[str]:
        return [each for server in placement.servers(time.monotonic()) for each in server.metrics]

    return await serve_targets(address, targets, identify, certificates)
