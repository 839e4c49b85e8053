"""Each stage of a stream slowed in turn, in a real server: what the session, the server and the client say of it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio
from safetensors.numpy import save_file

from framehaul.causes import Cause, Verdict
from framehaul_client import FrameClient
from tests.support.client_command import run_client
from tests.support.paced import PLUGIN, paced_clip
from tests.support.proxy import FaultProxy
from tests.support.running_app import RunningApp, running_app
from tests.support.waiting import eventually

MODELS = ("--model", "tiny", "--model", "paced", *PLUGIN)
SLOW_S = 0.03
NUM_LATENTS = 20
LARGE = 32  # latents of 32x32: frames of 196 kB


@pytest_asyncio.fixture
async def app() -> AsyncIterator[RunningApp]:
    async with running_app(*MODELS, "--session-window-mib", "64") as running:
        yield running


async def stream(target: str, latents: Any, *, frame_s: float = 0.0, **options: Any) -> Mapping[Cause, float]:
    """A session whose consumer takes `frame_s` for each frame; gives what the server says its time went to."""
    async with FrameClient(target) as client, client.session(latents, model="paced", **options) as session:
        async for _ in session:
            await asyncio.sleep(frame_s)
    return session.statistics.server_s


def expect_bound_by(cause: Cause, seconds: Mapping[Cause, float], *, share: float = 0.5) -> None:
    verdict = Verdict.of(seconds)
    assert verdict is not None
    assert (verdict.bound_by, verdict.share > share) == (cause, True), verdict.text()


async def slow_latents() -> AsyncIterator[npt.NDArray[np.float16]]:
    for latent in paced_clip(NUM_LATENTS, 0):
        await asyncio.sleep(SLOW_S)
        yield latent


@pytest.mark.asyncio
async def test_a_client_whose_latents_come_late(app: RunningApp) -> None:
    expect_bound_by(Cause.LATENTS, await stream(app.target, slow_latents()))
    expect_bound_by(Cause.LATENTS, await server_s(app))


@pytest.mark.asyncio
async def test_a_healthy_stream_is_bound_by_its_decoder(app: RunningApp) -> None:
    """The server says so while it runs, too, and the decoder is nearly all of it."""
    running = asyncio.create_task(stream(app.target, paced_clip(NUM_LATENTS, 1000 * SLOW_S)))
    await asyncio.sleep(10 * SLOW_S)
    expect_bound_by(Cause.DECODE, app.app._view().sessions[0].seconds)
    expect_bound_by(Cause.DECODE, await running, share=0.8)


@pytest.mark.asyncio
async def test_a_client_that_is_slow_with_frames(app: RunningApp) -> None:
    """Its window fills, and it says itself that it works."""
    seconds = await stream(app.target, paced_clip(NUM_LATENTS, 0), frame_s=SLOW_S / 4, window_frames=8)
    expect_bound_by(Cause.CLIENT_ENCODER, seconds)
    expect_bound_by(Cause.CLIENT_ENCODER, await server_s(app))


@pytest.mark.asyncio
async def test_a_window_too_narrow_for_a_long_way(app: RunningApp) -> None:
    """The client is quick, but its acknowledgements take their time."""
    async with FaultProxy(app.target) as proxy:
        proxy.delay_s = SLOW_S / 2
        seconds = await stream(proxy.target, paced_clip(NUM_LATENTS, 0), window_frames=4)
    expect_bound_by(Cause.CLIENT_WINDOW, seconds)


@pytest.mark.asyncio
async def test_a_narrow_connection(app: RunningApp) -> None:
    """Frames wait to be written."""
    async with FaultProxy(app.target) as proxy:
        proxy.delay_s, proxy.piece_bytes = 0.005, 32 << 10
        seconds = await stream(proxy.target, paced_clip(NUM_LATENTS, 0, size=LARGE))
    expect_bound_by(Cause.NETWORK, seconds)


@pytest.mark.asyncio
async def test_another_session_on_the_device(app: RunningApp) -> None:
    """The one that came later waits for the first, which doesn't; the server as a whole is bound by its decoder."""
    clip = paced_clip(NUM_LATENTS, 1000 * SLOW_S)
    first = asyncio.create_task(stream(app.target, clip))
    await asyncio.sleep(3 * SLOW_S)
    second = await stream(app.target, paced_clip(4, 1))
    expect_bound_by(Cause.DECODE, await first)
    expect_bound_by(Cause.SHARED, second)
    expect_bound_by(Cause.DECODE, await server_s(app))


@pytest.mark.asyncio
async def test_a_server_that_is_late_in_taking_frames(app: RunningApp, tmp_path: Path) -> None:
    """Its event loop is held up, so that slots stay taken; the command's client, in a process of its own, says so."""
    # On a busy machine it may be noticed late that all latents are on their way: most of them are decoded after that.
    save_file({"latents": paced_clip(NUM_LATENTS, 20, size=LARGE)}, tmp_path / "clip.safetensors")
    options = ("--target", app.target, "--model", "paced", "--out", tmp_path / "clip.y4m", "--json")
    running = asyncio.create_task(run_client("stream", tmp_path / "clip.safetensors", *options))
    await eventually(lambda: [each.num_fed for each in app.app._view().sessions] == [NUM_LATENTS], app.app._view)
    for _ in range(2):
        time.sleep(20 * SLOW_S)  # noqa: ASYNC251
        await asyncio.sleep(0)
    report = json.loads((await running).out)
    assert (report["bound_by"], report["bound_share"] > 0.5) == ("slots", True), report["charged_s"]


async def server_s(app: RunningApp) -> Mapping[Cause, float]:
    """What the server says of its time, without that before anybody came."""
    async with FrameClient(app.target) as client:
        seconds = dict((await client.info()).charged_s)
    seconds.pop(Cause.IDLE, None)
    return seconds
