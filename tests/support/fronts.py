"""A front in this event loop, over a table that the test fills."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from framehaul.address import Address
from framehaul_server.access.callers import Identify, as_everyone
from framehaul_server.config import ServerConfig
from framehaul_server.core.placement import Placement
from framehaul_server.front.front import Front
from tests.support.placing import report


@asynccontextmanager
async def running_front(*targets: str, identify: Identify = as_everyone) -> AsyncIterator[tuple[str, Placement, Front]]:
    """Run one that names `targets`, the first one first; gives its own target."""
    placement = Placement()
    for index, target in enumerate(targets):
        placement.report(target, report(index + 1, sessions=index), time.monotonic() + 60)
    config = ServerConfig(listen=Address(host="127.0.0.1", port=0))
    front = Front(config, placement, identify, None)
    address = front.bind()
    await front.start()
    try:
        yield str(address), placement, front
    finally:
        await front.aclose()
