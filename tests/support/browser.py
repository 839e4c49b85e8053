"""Headless Chromium, driven by its DevTools protocol; tests that need it are skipped where it isn't installed."""

import asyncio
import re
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian's package of that name)")


class Browser:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._num_asked = 0
        self._heard: list[str] = []
        """Events since the page was asked for."""
        self.complaints: list[str] = []
        """Errors that the page had, and what the browser refused it."""

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._num_asked += 1
        await self._socket.send_json({"id": self._num_asked, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == self._num_asked:
                assert "error" not in message, message
                return dict(message["result"])
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        self._heard.append(message.get("method", ""))
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(str(message["params"]))

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = await self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str) -> Any:
        """Its value, once that is true."""
        wanted = f"(async () => {{ for (;;) {{ const found = {script}; if (found) return found; "
        wanted += "await new Promise(then => setTimeout(then, 50)); } })()"
        async with asyncio.timeout(60):
            return await self.run(wanted)

    async def open(self, url: str) -> None:
        """Returns once it is loaded."""
        self._heard.clear()
        await self.ask("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._heard:
            self._hear(await self._socket.receive_json())

    async def look(self, *, width: int, dark: bool) -> None:
        """Take this width, and one of the two colour schemes."""
        await self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.ask("Emulation.setEmulatedMedia", features=[scheme])

    async def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            code = {"Tab": 9, "Enter": 13, "Space": 32}[key]
            await self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


@asynccontextmanager
async def browsing(folder: Path) -> AsyncIterator[Browser]:
    """Start one, with its profile in `folder`."""
    options = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
    )
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *options, f"--user-data-dir={folder}", "about:blank", stderr=PIPE, stdout=PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while not (found := re.search(rb"ws://([^/]+)/", await process.stderr.readline())):
                assert process.returncode is None, "chromium has ended"
        async with aiohttp.ClientSession(f"http://{found[1].decode()}") as http:
            async with http.get("/json") as response:
                tab = next(each for each in await response.json() if each["type"] == "page")
            async with http.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                browser = Browser(socket)
                for domain in ("Runtime", "Log", "Page"):
                    await browser.ask(f"{domain}.enable")
                yield browser
    finally:
        process.terminate()
        await process.communicate()
