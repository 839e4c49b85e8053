"""A real server's page: what it tells of a stream, its small pictures, and who may see them."""

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from framehaul.formats import PixelFormat
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import PIXEL_FORMATS
from tests.integration.conftest import StartServer
from tests.integration.security.conftest import write_tokens
from tests.support.browser import browsing, needs_chromium
from tests.support.call import Call
from tests.support.client_command import run_client
from tests.support.clips import decode, latents, make_clip, opening
from tests.support.pictures import read_jpeg
from tests.support.server_process import SAME_CHUNKS, ServerProcess, running_server
from tests.support.waiting import wait_until

METRICS = ("--metrics", "127.0.0.1:0")
HELD = opening(mode=pb.MODE_EXPLICIT, window_frames=8, resume=pb.Resume())


def url(server: ServerProcess) -> str:
    found = re.search(r" metrics listen=(\S+)", server.log)
    assert found, "it is logged before the server is ready"
    return f"http://{found[1]}"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("server") / "log", *METRICS, *SAME_CHUNKS) as server:
        yield server


def get(address: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as response:
        return bytes(response.read())


def snapshot(server: ServerProcess) -> dict[str, Any]:
    return dict(json.loads(get(f"{url(server)}/snapshot")))


@contextmanager
def events(server: ServerProcess, query: str = "") -> Iterator[Iterator[dict[str, Any]]]:
    with closing(urllib.request.urlopen(f"{url(server)}/events{query}", timeout=60)) as response:
        yield (json.loads(line[6:]) for line in response if line.startswith(b"data: "))


@contextmanager
def stalled_session(server: ServerProcess, **changes: object) -> Iterator[Call]:
    """A session whose client has taken the eight frames of its window, and says nothing of it."""
    asked = pb.Open()
    asked.CopyFrom(HELD)
    asked.MergeFrom(pb.Open(**changes))  # type: ignore[arg-type]
    with server.channel() as channel, Call(channel) as call:
        call.send(latents(4), open=asked)
        call.read_frames(8)
        yield call
        call.send(cancel=True)


def test_a_snapshot_tells_of_a_stalled_client(watched: ServerProcess) -> None:
    """And of the server what its session has cost."""
    before = snapshot(watched)
    with stalled_session(watched):

        def session() -> dict[str, Any]:
            return dict(next(iter(snapshot(watched)["sessions"]), {}))

        wait_until(lambda: session().get("frames") == 8, "a session with frames")
        told, shown = snapshot(watched), session()
        assert {name: shown[name] for name in ("model", "width", "height", "latents", "fed", "taken", "mode")} == {
            **{"model": "tiny", "width": 64, "height": 64, "latents": 4, "fed": 2, "taken": 0, "mode": "explicit"}
        }
        assert shown["window"] == {"used": 8, "all": 8}
        wait_until(lambda: session()["waiting_for"] == "client's window", "a client that holds the session up")
        wait_until(lambda: session()["verdict"]["bound_by"] == "client's window", "the verdict")
        assert told["places"] == {"used": 1, "all": 64}
        assert told["frames"] >= before["frames"] + 8
        assert told["version"]
    watched.expect_idle()
    wait_until(lambda: not snapshot(watched)["sessions"], "no session")
    assert 0 < snapshot(watched)["kernels_busy"]["minute"] <= 1
    assert sum(snapshot(watched)["timeline"]["frames"]) >= 8


def test_events_go_on_beside_a_stream(watched: ServerProcess) -> None:
    with stalled_session(watched), events(watched) as coming:
        told = [next(coming) for _ in range(3)]
    assert told[0]["up_s"] < told[1]["up_s"] < told[2]["up_s"]
    assert len(told[-1]["sessions"]) == 1, "the first of them may be a second old"
    watched.expect_idle()


def blocks(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return np.asarray(picture.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)), np.float64)


@pytest.mark.asyncio
@pytest.mark.parametrize("pixel_format", PixelFormat)
async def test_a_sessions_picture_is_its_newest_frame(watched: ServerProcess, pixel_format: PixelFormat) -> None:
    """In every format, beside what a client gets as RGB."""
    frames = await decode(watched.target, make_clip(4), pixel_format="rgb24", normalized=True)
    with stalled_session(watched, pixel_format=PIXEL_FORMATS[pixel_format]), events(watched, "?previews") as told:
        number = next(session["number"] for each in told for session in each["sessions"] if session["preview"] == 8)
        jpeg = get(f"{url(watched)}/previews/{number}.jpg")
    picture = read_jpeg(jpeg)
    assert picture.shape == (64, 64, 3)
    difference = np.abs(blocks(picture) - blocks(frames[7]))
    assert difference.mean() < 3, "of 255"
    assert np.abs(blocks(picture) - blocks(frames[0])).mean() > 3, "nor any frame"
    watched.expect_idle()


@pytest.mark.asyncio
async def test_top_prints_a_server_once(watched: ServerProcess) -> None:
    with stalled_session(watched):
        wait_until(lambda: bool(snapshot(watched)["sessions"]), "a session")
        ended = await run_client("top", url(watched), "--once")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.decode().splitlines()
    assert lines[0].startswith("framehaul ")
    assert max(map(len, lines)) <= 80
    assert re.search(r"sessions 1/64  queue 0/64", ended.out.decode())
    assert re.search(r"^ *\d+ everyone +tiny +64x64 +0 +8/8 ", lines[-1])
    watched.expect_idle()


@pytest.mark.asyncio
async def test_who_may_look_is_the_tokens_file_s_to_say(start_server: StartServer, tmp_path: Path) -> None:
    """Nobody without a token that may watch; in a browser the token is the password. Nor are there pictures here."""
    tokens = tmp_path / "tokens.toml"
    write_tokens(tokens, film="", operator="watch = true")
    server = start_server(*METRICS, "--no-preview", "--tokens", str(tokens))
    paths = ("/", "/page.js", "/snapshot", "/events", "/previews/1.jpg")
    bearer = {"operator": "Bearer operator-token", "film": "Bearer film-token", "nobody": "Bearer x", "none": ""}
    for tenant, status in (("none", 401), ("nobody", 401), ("film", 403)):
        for path in paths:
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(url(server) + path, Authorization=bearer[tenant])
            assert refused.value.code == status, (tenant, path)
            refused.value.close()
    password = "Basic " + base64.b64encode(b"anybody:operator-token").decode()
    for authorization in (bearer["operator"], password):
        assert json.loads(get(f"{url(server)}/snapshot", Authorization=authorization))["previews"] is False
    for tenant, code, text in (("operator", 0, ""), ("film", 2, "may not watch"), ("nobody", 2, "it wants a token")):
        file = tmp_path / tenant
        file.touch(mode=0o600)
        file.write_text(bearer[tenant].removeprefix("Bearer "))
        ended = await run_client("top", url(server), "--once", "--token-file", file)
        assert ended.code == code
        assert text in ended.err


@needs_chromium
@pytest.mark.asyncio
async def test_the_page_shows_a_real_session(watched: ServerProcess, tmp_path: Path) -> None:
    with stalled_session(watched):
        async with browsing(tmp_path) as browser:
            await browser.open(url(watched))
            row = await browser.until("document.querySelector('.sessions tbody tr')?.innerText")
            assert {"everyone, tiny", "64\u00d764 rgb24", "8 of 8"} <= {
                each.strip() for each in re.split("[\t\n]", row)
            }
            picture = "document.querySelector('.sessions img')?.naturalWidth == 64"
            await browser.until(picture)
            await browser.open(
                url(watched)
            )  # whose first snapshot may tell of a picture that went with the last reader
            await browser.until(picture)
            assert await browser.until("document.getElementById('verdict').textContent")
            assert [each for each in browser.complaints if "previews" not in each] == []
    watched.expect_idle()
