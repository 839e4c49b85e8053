import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from framehaul.address import Address
from framehaul_server.access.callers import as_everyone
from framehaul_server.core.session_view import Look
from framehaul_server.observe import page
from framehaul_server.observe.http import HttpServer
from framehaul_server.observe.view import ServerView
from tests.support.server_view import server_view, session_view

STATIC = Path(page.__file__).parent / "static"


class Served:
    """A page, and who asked for what it shows."""

    def __init__(self) -> None:
        self.num_views = 0
        self.asked: list[int] = []
        self.sessions = [session_view(7, tenant="<b>film</b>")]
        self.url = ""

    def view(self) -> ServerView:
        self.num_views += 1
        return server_view(*self.sessions)

    def show(self, number: int, look: Look) -> None:
        del look
        self.asked.append(number)


@asynccontextmanager
async def serving(*, previews: bool = True) -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
    served = Served()
    server = HttpServer(as_everyone, page.routes(served.view, served.show if previews else None))
    try:
        served.url = f"http://{await server.start(Address(host='127.0.0.1', port=0), None)}"
        async with aiohttp.ClientSession(served.url) as client:
            yield served, client
    finally:
        await server.aclose()


async def event(response: aiohttp.ClientResponse) -> dict[str, Any]:
    async for line in response.content:
        if line.startswith(b"data: "):
            return dict(json.loads(line[6:]))
    raise AssertionError("no event")


@pytest.mark.asyncio
async def test_the_page_and_all_that_it_loads_are_here() -> None:
    """No script, style or picture of elsewhere, and none in the page's text, which the browser is told to refuse."""
    async with serving() as (_, client):
        async with client.get("/") as response:
            text = await response.text()
            assert response.headers["Content-Type"] == "text/html; charset=utf-8"
            assert response.headers["Content-Security-Policy"].startswith("default-src 'self'")
        loaded = re.findall(r'(?:src|href)="([^"#]+)"', text)
        assert {"page.css", "page.js", "uPlot.iife.min.js", "uPlot.min.css"} <= set(loaded)
        for name in set(loaded) - {"data:,"}:
            async with client.get(f"/{name}") as response:
                assert response.status == 200, name
                assert response.headers["Content-Type"].startswith(("text/css", "text/javascript", "application/json"))
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?:", text)


def test_names_reach_the_page_as_text_alone() -> None:
    """Whatever tenants and models are called."""
    script = (STATIC / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\(", script)


@pytest.mark.asyncio
async def test_no_other_site_may_read_it() -> None:
    """Nor one that gives its own name to this address; numbers name nobody's site."""
    async with serving() as (_, client):
        for host, status in (
            *((host, 200) for host in ("localhost", "localhost:9", "127.0.0.1:9", "[::1]:9", "127.0.0.2")),
            *((host, 421) for host in ("evil.example", "evil.example:9", "localhost.evil.example", "[", "")),
        ):
            async with client.get("/snapshot", headers={"Host": host}) as response:
                assert response.status == status, host
                assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/static/page.js", "/index.html", "/page.py", "/uPlot.LICENSE", "/..%2fpage.py"])
async def test_nothing_else_is_served(path: str) -> None:
    async with serving() as (_, client), client.get(path) as response:
        assert response.status == 404


@pytest.mark.asyncio
async def test_a_snapshot_is_made_once_a_second_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_FRESH_S", 1000.0)
    async with serving() as (served, client):
        for _ in range(3):
            async with client.get("/snapshot") as response:
                assert (await response.json())["sessions"][0]["tenant"] == "<b>film</b>"
        assert served.num_views == 1
        assert served.asked == [], "nobody looks at pictures"


@pytest.mark.asyncio
async def test_events_go_on_and_readers_find_their_places_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are made for those who ask for them."""
    monkeypatch.setattr(page, "_INTERVAL_S", 0.01)
    monkeypatch.setattr(page, "_FRESH_S", 0.0)
    monkeypatch.setattr(page, "MOST_READERS", 1)
    async with serving() as (served, client):
        async with client.get("/events") as response:
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert [(await event(response))["up_s"] for _ in range(3)] == [100.0] * 3
            async with client.get("/events") as other:
                assert (other.status, await other.text()) == (503, "1 read events already\n")
            assert served.asked == []
        await first_event(client, "/events?previews")
        assert set(served.asked) == {7}


@pytest.mark.asyncio
async def test_a_reader_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is cut, and its place is another's."""
    monkeypatch.setattr(page, "_INTERVAL_S", 0.0)
    monkeypatch.setattr(page, "_WRITE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(page, "MOST_READERS", 1)
    loop = asyncio.get_running_loop()
    async with serving() as (served, client):
        host, _, port = served.url.removeprefix("http://").partition(":")
        with socket.socket() as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.setblocking(False)
            await loop.sock_connect(idle, (host, int(port)))
            await loop.sock_sendall(idle, b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await loop.sock_recv(idle, 15)) == b"HTTP/1.1 200 OK"
            async with client.get("/events") as response:
                assert response.status == 503
            await first_event(client, "/events")


async def first_event(client: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    """Once there is a place for its reader."""
    async with asyncio.timeout(60):
        while True:
            async with client.get(path) as response:
                if response.status == 200:
                    return await event(response)


@pytest.mark.asyncio
@pytest.mark.parametrize("previews", [True, False])
async def test_a_session_without_a_picture_has_none(previews: bool) -> None:
    async with serving(previews=previews) as (_, client):
        async with client.get("/snapshot") as response:
            assert (await response.json())["previews"] is previews
        for number in ("7", "999999999999999999", "7777777777777777777", "-1", "x"):
            async with client.get(f"/previews/{number}.jpg") as response:
                assert response.status == 404
