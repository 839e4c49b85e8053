"""Where the metrics of several servers are, for Prometheus.

The form is that of https://prometheus.io/docs/prometheus/latest/http_sd/.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable

from aiohttp import web

from framehaul.address import Address
from framehaul_server import logs
from framehaul_server.access.callers import Identify
from framehaul_server.access.tls import Certificates
from framehaul_server.observe.http import HttpServer

_log = logging.getLogger(__name__)


async def serve_targets(
    address: Address, targets: Callable[[], Iterable[str]], identify: Identify, certificates: Certificates | None
) -> HttpServer:
    """Tell whoever may watch, at `/targets` of `address`, where `targets` are at that moment.

    Raises:
        CannotListen: the address is in use, or not of this machine.
    """

    async def tell(_request: web.Request) -> web.Response:
        return web.Response(text=json.dumps([{"targets": list(targets())}]), content_type="application/json")

    server = HttpServer(identify, [("/targets", tell)])
    bound = await server.start(address, certificates)
    _log.info("%s", logs.line("metrics", listen=bound))
    return server
