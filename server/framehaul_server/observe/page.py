"""The live page for people, its events, and the same once.

    /            the page, with what it loads: files of static/, and nothing from elsewhere
    /events      server-sent events: a snapshot each second; with ?previews the server makes small pictures meanwhile
    /snapshot    one snapshot
    /previews/N.jpg   session N's picture

Runs on the event loop. What it costs doesn't grow with the readers: a snapshot is made once a second, whoever reads.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib.resources import files
from typing import Final

from aiohttp import web

from framehaul_server.core.session_view import Look
from framehaul_server.observe.http import Handler
from framehaul_server.observe.preview import Previews
from framehaul_server.observe.snapshot import snapshot
from framehaul_server.observe.view import ServerView

MOST_READERS: Final = 16
"""Of events, at a time."""
_INTERVAL_S: Final = 1.0
_FRESH_S: Final = 0.9
_WRITE_TIMEOUT_S: Final = 5.0
"""A reader that takes nothing for so long is dropped."""
_KINDS: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


def routes(view: Callable[[], ServerView], show: Callable[[int, Look], None] | None) -> list[tuple[str, Handler]]:
    """What answers GET; `show` lets the previews look at a session's frames, None: there are none."""
    page = _Page(view, Previews(show) if show else None)
    static = files("framehaul_server.observe") / "static"
    found = {f"/{each.name}": each for each in static.iterdir() if each.name.rpartition(".")[2] in _KINDS}
    found["/"] = found.pop("/index.html")
    return [
        *((path, _file(each.read_bytes(), _KINDS[each.name.rpartition(".")[2]])) for path, each in found.items()),
        ("/events", page.events),
        ("/snapshot", page.snapshot),
        (r"/previews/{number:\d{1,18}}.jpg", page.preview),
    ]


def _file(body: bytes, kind: str) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return answer


class _Page:
    """What changes."""

    def __init__(self, view: Callable[[], ServerView], previews: Previews | None) -> None:
        self._view = view
        self._previews = previews
        self._places = asyncio.Semaphore(MOST_READERS)
        self._newest = b""
        self._newest_s = float("-inf")

    async def snapshot(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._json(), content_type="application/json", charset="utf-8")

    async def events(self, request: web.Request) -> web.StreamResponse:
        if self._places.locked():
            return web.Response(status=503, text=f"{MOST_READERS} read events already\n")
        watched = self._previews.watched() if self._previews and "previews" in request.query else nullcontext()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        async with self._places:
            with watched, suppress(ConnectionError, TimeoutError):
                await response.prepare(request)
                while True:
                    async with asyncio.timeout(_WRITE_TIMEOUT_S):
                        await response.write(b"retry: 1000\ndata: %b\n\n" % self._json())
                    await asyncio.sleep(_INTERVAL_S)
            if request.transport is not None:
                request.transport.abort()  # what it didn't read isn't kept for it
        return response

    async def preview(self, request: web.Request) -> web.StreamResponse:
        jpeg = self._previews.jpeg(int(request.match_info["number"])) if self._previews else None
        if jpeg is None:
            return web.Response(status=404, text="no picture of this session\n")
        return web.Response(body=jpeg, content_type="image/jpeg")

    def _json(self) -> bytes:
        now_s = time.monotonic()
        if now_s - self._newest_s >= _FRESH_S:
            view, previews = self._view(), self._previews
            if previews is not None:
                previews.refresh([each.number for each in view.sessions])
            told = snapshot(view, previews.version if previews else None)
            self._newest, self._newest_s = json.dumps(told, separators=(",", ":")).encode(), now_s
        return self._newest
