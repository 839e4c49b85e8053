"""The HTTP server for operators: who may look, and how many at a time.

Runs on the event loop. Without tokens everybody who reaches the address may look; with them, whoever's tenant may watch
(`watch = true` in the tokens' file), by a bearer token or, in a browser, with the token as the password.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aiohttp import web

from framehaul.address import Address
from framehaul_server.access.callers import AUTHORIZATION, Identify, as_everyone
from framehaul_server.access.tls import Certificates
from framehaul_server.errors import CannotListen, NotAuthenticated

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MOST_AT_ONCE: Final = 32
_STOP_TIMEOUT_S: Final = 1.0
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Server": "framehaul",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class HttpServer:
    """Serves routes at one address."""

    def __init__(self, identify: Identify, routes: Iterable[tuple[str, Handler]]) -> None:
        """Serve `routes`, each a path and what answers GET there, to those whom `identify` lets watch."""
        self._identify = identify
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)
        self._only_local = False
        """Who asks for another host than this one was led here by a site that gives its name to this address."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        app = web.Application(middlewares=[guard], client_max_size=1 << 10)
        app.on_response_prepare.append(_add_headers)
        app.add_routes([web.get(path, handler) for path, handler in routes])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_TIMEOUT_S)

    async def start(self, address: Address, certificates: Certificates | None) -> Address:
        """Listen; gives the bound address.

        Raises:
            CannotListen: the address is in use, or not of this machine.
        """
        self._only_local = address.is_loopback and self._identify is as_everyone
        await self._runner.setup()
        context = None if certificates is None else certificates.context()
        site = web.TCPSite(self._runner, address.host, address.port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            raise CannotListen(f"metrics={address}: the address is in use or not of this machine") from error
        return Address(host=address.host, port=self._runner.addresses[0][1])

    async def aclose(self) -> None:
        """Stop; answers under way are cut off after a second. Twice is fine."""
        await self._runner.cleanup()

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._only_local and not _is_local(request.host):
            return web.Response(
                status=421, text="without tokens only localhost and addresses of this machine are known\n"
            )
        try:
            may_watch = self._identify(_metadata(request)).tenant.watch
        except NotAuthenticated:
            return web.Response(
                status=401, text="a token is needed\n", headers={"WWW-Authenticate": 'Basic realm="framehaul"'}
            )
        if not may_watch:
            return web.Response(status=403, text="this tenant may not watch: watch = true in the tokens' file\n")
        if self._places.locked():
            return web.Response(status=503, text=f"{_MOST_AT_ONCE} look at this server already\n")
        async with self._places:
            response = await handler(request)
        return response


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    response.headers.update(_HEADERS)


def _is_local(host: str) -> bool:
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return Address(host=name, port=0).is_loopback


def _metadata(request: web.Request) -> list[tuple[str, str]]:
    """As in a call: a browser's password is the token."""
    given = request.headers.get("Authorization", "")
    scheme, _, encoded = given.partition(" ")
    if scheme.lower() == "basic":
        try:
            given = "Bearer " + base64.b64decode(encoded, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            given = ""
    return [(AUTHORIZATION, given)] if given else []
