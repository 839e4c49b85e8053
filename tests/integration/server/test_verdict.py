"""Each stage of a stream slowed in turn, in a real server: what the session, the server and the client say of it.

A busy machine slows the other stages as well. So where another one is blamed the stage is slowed more.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
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

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODELS = ("--model", "tiny", "--model", "paced", *PLUGIN)
SLOW_S = (0.03, 0.1, 0.5)
NUM_LATENTS = 20
LARGE = 32  # latents of 32x32: frames of 196 kB


Seconds = Mapping[Cause, float]
Run = Callable[[float], Awaitable[list[tuple[Cause, Seconds]]]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[RunningApp]:
    async with running_app(*MODELS, "--session-window-mib", "64") as running:
        yield running


async def stream(target: str, latents: Any, *, frame_s: float = 0.0, **options: Any) -> Seconds:
    """A session whose consumer takes `frame_s` for each frame; gives what the server says its time went to."""
    async with FrameClient(target) as client, client.session(latents, model="paced", **options) as session:
        async for _ in session:
            await asyncio.sleep(frame_s)
    return session.statistics.server_s


def is_bound_by(cause: Cause, seconds: Seconds, share: float = 0.5) -> bool:
    verdict = Verdict.of(seconds)
    return verdict is not None and verdict.bound_by == cause and verdict.share > share


async def expect_bound(run: Run, *, share: float = 0.5) -> None:
    """`run` slows a stage by so many seconds; gives what each must be bound by, and its seconds."""
    for slow_s in SLOW_S:
        found = await run(slow_s)
        if all(is_bound_by(cause, seconds, share) for cause, seconds in found):
            return
    pytest.fail(f"not bound by that: {found}")


async def server_s(app: RunningApp, before: Seconds = MappingProxyType({})) -> Seconds:
    """What the server says of its time since then, without that in which there was nobody."""
    async with FrameClient(app.target) as client:
        charged = (await client.info()).charged_s
    return {cause: charged[cause] - before.get(cause, 0.0) for cause in charged if cause is not Cause.IDLE}


async def slow_latents(slow_s: float) -> AsyncIterator[npt.NDArray[np.float16]]:
    for latent in paced_clip(NUM_LATENTS, 0):
        await asyncio.sleep(slow_s)
        yield latent


async def test_a_client_whose_latents_come_late(app: RunningApp) -> None:
    async def run(slow_s: float) -> list[tuple[Cause, Seconds]]:
        before = await server_s(app)
        seconds = await stream(app.target, slow_latents(slow_s))
        return [(Cause.LATENTS, seconds), (Cause.LATENTS, await server_s(app, before))]

    await expect_bound(run)


async def test_a_healthy_stream_is_bound_by_its_decoder(app: RunningApp) -> None:
    """The server says so while it runs, too, and the decoder is nearly all of it."""

    async def run(slow_s: float) -> list[tuple[Cause, Seconds]]:
        running = asyncio.create_task(stream(app.target, paced_clip(NUM_LATENTS, 1000 * slow_s)))
        await eventually(lambda: any(is_bound_by(Cause.DECODE, each) for each in now()), now)
        return [(Cause.DECODE, await running)]

    def now() -> list[Seconds]:
        return [each.seconds for each in app.app._view().sessions]

    await expect_bound(run, share=0.8)


async def test_a_client_that_is_slow_with_frames(app: RunningApp) -> None:
    """Its window fills, and it says itself that it works."""

    async def run(slow_s: float) -> list[tuple[Cause, Seconds]]:
        before = await server_s(app)
        seconds = await stream(app.target, paced_clip(NUM_LATENTS, 0), frame_s=slow_s / 4, window_frames=8)
        return [(Cause.CLIENT_ENCODER, seconds), (Cause.CLIENT_ENCODER, await server_s(app, before))]

    await expect_bound(run)


async def test_a_window_too_narrow_for_a_long_way(app: RunningApp) -> None:
    """The client is quick, but its acknowledgements take their time."""

    async def run(slow_s: float) -> list[tuple[Cause, Seconds]]:
        async with FaultProxy(app.target) as proxy:
            proxy.delay_s = slow_s / 2
            return [(Cause.CLIENT_WINDOW, await stream(proxy.target, paced_clip(NUM_LATENTS, 0), window_frames=4))]

    await expect_bound(run)


async def test_a_narrow_connection(app: RunningApp) -> None:
    """Frames wait to be written."""

    async def run(slow_s: float) -> list[tuple[Cause, Seconds]]:
        async with FaultProxy(app.target) as proxy:
            proxy.delay_s, proxy.piece_bytes = slow_s / 6, 32 << 10
            return [(Cause.NETWORK, await stream(proxy.target, paced_clip(NUM_LATENTS, 0, size=LARGE)))]

    await expect_bound(run)


async def test_another_session_on_the_device(app: RunningApp) -> None:
    """The one that came later waits for the first, which doesn't; the server as a whole is bound by its decoder."""

    async def run(slow_s: float) -> list[tuple[Cause, Seconds]]:
        before = await server_s(app)
        first = asyncio.create_task(stream(app.target, paced_clip(NUM_LATENTS, 1000 * slow_s)))
        await eventually(lambda: any(each.num_fed for each in app.app._view().sessions), app.app._view)
        second = await stream(app.target, paced_clip(4, 1))
        return [(Cause.SHARED, second), (Cause.DECODE, await first), (Cause.DECODE, await server_s(app, before))]

    await expect_bound(run)


async def test_a_server_that_is_late_in_taking_frames(app: RunningApp, tmp_path: Path) -> None:
    """Its event loop is held up, so that slots stay taken; the command's client, in a process of its own, says so."""
    # On a busy machine it may be noticed late that all latents are on their way: most of them are decoded after that.
    save_file({"latents": paced_clip(NUM_LATENTS, 20, size=LARGE)}, tmp_path / "clip.safetensors")
    options = ("--target", app.target, "--model", "paced", "--json")

    async def run(slow_s: float) -> list[tuple[Cause, Seconds]]:
        out = ("--out", tmp_path / f"{slow_s}.y4m")
        running = asyncio.create_task(run_client("stream", tmp_path / "clip.safetensors", *out, *options))
        await eventually(lambda: [each.num_fed for each in app.app._view().sessions] == [NUM_LATENTS], app.app._view)
        for _ in range(2):
            time.sleep(20 * slow_s)  # noqa: ASYNC251
            await asyncio.sleep(0)
        report = json.loads((await running).out)
        return [
            (Cause.SLOTS, {Cause(report["bound_by"]): report["bound_share"], Cause.IDLE: 1 - report["bound_share"]})
        ]

    await expect_bound(run)
