"""The page in headless Chromium, beside servers that are made up."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from framehaul.address import Address
from framehaul.causes import Cause
from framehaul_server.access.callers import as_everyone
from framehaul_server.observe import page
from framehaul_server.observe.http import HttpServer
from framehaul_server.observe.view import ServerView
from tests.support.browser import browsing, needs_chromium
from tests.support.server_view import server_view, session_view

pytestmark = [needs_chromium, pytest.mark.asyncio]

ROWS = "[...document.querySelectorAll('.sessions tbody tr')].map(row => row.querySelector('.nr').textContent).join()"
LINK = "document.getElementById('link').dataset.state"


@asynccontextmanager
async def serving(view: Callable[[], ServerView], port: int = 0) -> AsyncIterator[Address]:
    server = HttpServer(as_everyone, page.routes(view, None))
    try:
        yield await server.start(Address(host="127.0.0.1", port=port), None)
    finally:
        await server.aclose()


async def test_it_shows_the_verdict_its_numbers_and_each_session(tmp_path: Path) -> None:
    """And what tenants are called can't become part of the page."""
    evil = "<img src=x onerror=alert(1)>"
    sessions = [
        session_view(1, tenant=evil, model="<b>tiny</b>"),
        session_view(2, state="detached", priority=3),
        session_view(3, num_published=36, waiting_for=Cause.CLIENT_WINDOW, seconds={Cause.CLIENT_WINDOW: 1.0}),
    ]
    async with serving(lambda: server_view(*sessions)) as address, browsing(tmp_path) as browser:
        await browser.open(f"http://{address}")
        await browser.until(f"{ROWS} == '1,2,3'")
        text = await browser.run("document.body.innerText")
        for shown in (
            *("Idle, 83 %", "Nobody has asked for frames.", "1.2.3 on cuda:0 NVIDIA H200, worker ready, up 1 min"),
            *("40 %", "24.0", "3 of 64", "2.5 GB", "of 8.0 GB, 1 parked"),
            *(evil, "<b>tiny</b>", "832\u00d7480 yuv420p", "decode, 75 %", "waits for its client", "priority 3"),
            *("16 of 16", "client's window, 100 %"),
        ):
            assert shown in text, shown
        assert await browser.run("document.querySelectorAll('tbody b, tbody img[src]').length") == 0
        told = await browser.run("document.getElementById('timeline').getAttribute('aria-label')")
        assert "decode 8 %, waiting for latents 8 %; kernels busy 7 %; 4.0 frames a second" in told.replace(
            "waiting for latents 8 %, decode 8 %", "decode 8 %, waiting for latents 8 %"
        )
        assert await browser.run("document.querySelectorAll('#timeline canvas').length") == 2
        assert browser.complaints == []


async def test_it_finds_a_server_that_comes_back(tmp_path: Path) -> None:
    """It says that nobody answers, and the next server's sessions aren't taken for those of the last one."""
    async with browsing(tmp_path) as browser:
        async with serving(lambda: server_view(session_view(1, num_taken=20), session_view(2))) as address:
            await browser.open(f"http://{address}")
            await browser.until(f"{ROWS} == '1,2'")
            assert await browser.run(LINK) == "live"
        await browser.until(f"{LINK} == 'lost'")
        async with serving(lambda: server_view(session_view(1, num_taken=7), up_s=5), address.port):
            await browser.until(f"{LINK} == 'live' && {ROWS} == '1'")
            assert await browser.run("document.querySelector('.frames .main').textContent") == "7"
        exceptions = [each for each in browser.complaints if "exceptionDetails" in each]
        assert exceptions == []


async def test_it_fits_desks_and_phones(tmp_path: Path) -> None:
    """Nothing is wider than the screen, and it follows the colour scheme; with no session, one, and many."""
    sessions = [session_view(number, tenant="a-tenant-with-a-name-of-64-letters-" * 2) for number in range(12)]
    num_sessions = 0
    async with serving(lambda: server_view(*sessions[:num_sessions])) as address, browsing(tmp_path) as browser:
        for width, dark in ((1280, False), (390, True)):
            for num_sessions in (0, 1, 12):
                await browser.look(width=width, dark=dark)
                await browser.open(f"http://{address}")
                rows = f"document.querySelectorAll('.sessions tbody tr').length == {num_sessions}"
                await browser.until(f"{LINK} == 'live' && {rows}")
                assert await browser.run("document.documentElement.scrollWidth") <= width
                paper = await browser.run("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, paper[4:-1].split(","))) < 150) == dark
                assert await browser.run("document.getElementById('nobody').hidden") == (num_sessions > 0)


async def test_the_keyboard_reaches_everything_and_is_seen(tmp_path: Path) -> None:
    """Past the numbers to the sessions, and the timeline as a table."""
    focus = "document.activeElement.className || document.activeElement.tagName"
    async with serving(lambda: server_view(session_view(1))) as address, browsing(tmp_path) as browser:
        await browser.open(f"http://{address}")
        await browser.until(f"{ROWS} == '1'")
        reached = []
        for _ in range(2):
            await browser.press("Tab")
            reached.append(await browser.run(focus))
            assert await browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert reached == ["skip", "SUMMARY"]
        await browser.run("document.activeElement.click()")
        rows = "[...document.querySelectorAll('#timeline-table tbody tr')].map(row => row.innerText)"
        shown = await browser.until(f"{rows}.length && {rows}")
        assert "decode\t0\t0\t0\t0\t0\t50" in shown
        assert "frames a second\t0.0\t0.0\t0.0\t0.0\t0.0\t24.0" in shown
        await browser.press("Tab")
        assert await browser.run(focus) == "scroll"
